"""Builds the data sets, the model, the mesh and the initial weights that a config describes."""

import difflib
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vswin_jax import checkpoint, models
from vswin_jax.config import argument_names
from vswin_jax.config.plugins import name_plugins
from vswin_jax.data.clips.clip_augmentations import build_augmentations
from vswin_jax.data.clips.clip_spec import ClipSpec
from vswin_jax.data.clips.mirrored_labels import mirrored_labels
from vswin_jax.data.example import Source
from vswin_jax.data.moving_shapes.moving_shapes import CLASSES, write_moving_shapes
from vswin_jax.data.pipeline.batches import AUTOTUNE
from vswin_jax.data.pipeline.clip_processes import choose_processes
from vswin_jax.data.sources.labels import check_same_names
from vswin_jax.data.sources.sources import open_source
from vswin_jax.errors import InputError, rename_arguments
from vswin_jax.runtime.distributed import wait_for_all
from vswin_jax.runtime.label_names import read_label_names
from vswin_jax.runtime.progress import Progress
from vswin_jax.sharding.mesh import host_batch_shard, mesh_from_config
from vswin_jax.training import resume_check
from vswin_jax.training.batch_registry import build_batch_augmentations
from vswin_jax.training.durations import TrainingDurations
from vswin_jax.training.run_training import TrainingInputs
from vswin_jax.weights import RELEASED, load_weights, weights_exist

log = logging.getLogger("vswin_jax")


def check_settings(config: ConfigDict, *, trains: bool = True) -> None:
    """Check the settings that their users check, which takes no data and no devices.

    Augmentations are checked only for a run that `trains`.

    Raises:
      InputError: a wrong setting of the clips, the model or the durations.
    """
    train_spec(config) if trains else clip_spec(config)
    build_model(config, num_classes=1)
    TrainingDurations.from_config(config, num_examples=1)


@rename_arguments(argument_names.CLIP_SPEC)
def clip_spec(config: ConfigDict) -> ClipSpec:
    """Build the specification of training clips and test views."""
    data, views = config.data, config.eval
    return ClipSpec(
        num_frames=data.num_frames,
        frame_interval=data.frame_interval,
        sampling=data.sampling,
        fps=data.fps,
        resize=data.resize,
        size=data.size,
        scale=tuple(data.scale),
        ratio=tuple(data.ratio),
        flip=data.flip,
        num_clips=views.num_clips,
        num_crops=views.num_crops,
        eval_resize=views.resize,
        repeat_first_frame=data.repeat_first_frame,
        rand_augment_n=data.rand_augment.n,
        rand_augment_m=data.rand_augment.m,
    )


def train_spec(config: ConfigDict) -> ClipSpec:
    """Build the specification of training clips, with the registered augmentations.

    Raises:
      InputError: an augmentation that is not registered, or wrong options.
    """
    with name_plugins(config.plugins):
        build_batch_augmentations(config.data.batch_augmentations)
        augmentations = build_augmentations(config.data.augmentations)
    return replace(clip_spec(config), augmentations=augmentations)


def training_inputs(
    config: ConfigDict, workdir: str | os.PathLike, *, allow_changes: bool = False
) -> TrainingInputs:
    """Build data, model, mesh and weights of a training run in `workdir`.

    The weights are loaded only when the run needs them, and never if it resumes from a checkpoint.
    `allow_changes` lets it resume with other settings and videos; see `resume_check`.

    Raises:
      InputError: data or weights that are missing or do not fit the config, or a change since the
        checkpoint.
    """
    load = None if has_checkpoint(workdir) else starting_weights(config)
    source = open_split(config, workdir, "train")
    held_out = open_split(config, workdir, "eval", source.label_names)
    data = resume_check.describe_data(source, held_out)
    resume_check.check_changes(config, workdir, data, allow_changes=allow_changes)
    mesh = mesh_from_config(config)
    model = split_over(mesh, config, build_model(config, len(source.label_names)))
    return TrainingInputs(
        source=source,
        held_out=held_out,
        spec=train_spec(config),
        model=model,
        mesh=mesh,
        sampler_options=sampler_options(config, source),
        reading_options=reading_options(config, mesh),
        initial_params=(lambda: load(model)) if load else None,
        data=data,
    )


def reading_options(config: ConfigDict, mesh: Mesh) -> dict[str, Any]:
    """Return the arguments of `train_batches` and `eval_batches` about this host's readers."""
    index, count = host_batch_shard(mesh)
    return {
        "process_index": index,
        "process_count": count,
        "threads": config.data.threads or AUTOTUNE,
        "processes": choose_processes(config.data.processes),
        "prefetch": config.data.prefetch,
    }


def sampler_options(config: ConfigDict, source: Source) -> dict[str, Any]:
    """Return the arguments of `train_batches` about which examples form a batch.

    Raises:
      InputError: the classes of `source` do not pair as config.data.flip_labels requires.
    """
    data = config.data
    names = source.label_names
    return {
        "batch_size": config.train.batch_size,
        "seed": config.seed,
        "class_balance": data.class_balance,
        "aug_repeats": data.aug_repeats,
        "mirrored_labels": mirrored_labels(data.flip_labels, names) if data.flip_labels else None,
    }


@rename_arguments(argument_names.MODEL)
def build_model(config: ConfigDict, num_classes: int) -> models.SwinTransformer3D:
    """Build the config's model; fields that are None keep the variant's own values."""
    settings = {**config.model, "num_classes": num_classes}
    with name_plugins(config.plugins):
        return models.create_model(settings.pop("name"), **settings)


def check_params(params: Any, model: models.SwinTransformer3D) -> Any:
    """Return `params`.

    Raises:
      InputError: they are not those of `model`.
    """
    shapes = jax.eval_shape(lambda: models.init_params(model, jax.random.key(0)))
    checkpoint.check_matches(params, shapes)
    return params


@rename_arguments(argument_names.RUN)
def split_over(
    mesh: Mesh, config: ConfigDict, model: models.SwinTransformer3D
) -> models.SwinTransformer3D:
    """Return `model` with clips split over the mesh's window axis, along config.mesh.window_over.

    Raises:
      InputError: clips of the config's size cannot be sharded that way.
    """
    clip = (config.data.num_frames, config.data.size, config.data.size)
    return models.split_clips(model, mesh, config.mesh.window_over, clip)


def open_split(
    config: ConfigDict,
    workdir: str | os.PathLike,
    split: str,
    label_names: Sequence[str] | None = None,
) -> Source:
    """Open the videos of "train" or "eval"; missing moving_shapes are written first.

    `label_names` are the classes of the training set, which the evaluation set must have too. A
    training set must have the classes of the checkpoint in `workdir`, if there is one.

    Raises:
      InputError: data that is unset, missing or unreadable, or other classes.
    """
    written = _label_names(config.data.label_names)
    if label_names and written:
        check_same_names(label_names, written, config.data.label_names)
    source = _open_split(config, workdir, split, label_names or written)
    if split == "train":
        resume_check.check_same_classes(config, workdir, source.label_names)
    return source


@rename_arguments(argument_names.SOURCE)
def _open_split(
    config: ConfigDict,
    workdir: str | os.PathLike,
    split: str,
    names: Sequence[str] | None,
) -> Source:
    if config.data.kind == "moving_shapes":
        folder = "train" if split == "train" else "test"
        directory = str(_moving_shapes(config, workdir) / folder)
        return open_source(directory, label_names=names, multi_label=config.data.multi_label)
    path = config.data[split]
    if not path:
        raise InputError(
            f"Expected the {split} videos but config.data.{split} is unset: give an annotation "
            f"file or a folder with a sub-folder for each class, as --config.data.{split}=PATH."
        )
    with name_plugins(config.plugins):
        return open_source(
            path,
            root=config.data.root,
            kind=config.data.format,
            label_names=names,
            num_classes=config.model.num_classes,
            # Training replaces a missing video by another one, evaluation leaves it out.
            must_exist=split != "train" and config.eval.strict,
            multi_label=config.data.multi_label,
        )


def _label_names(path: str) -> tuple[str, ...] | None:
    if not path:
        return None
    if not os.path.isfile(path):
        raise InputError(
            f"Expected a text file with one class name a line but config.data.label_names is "
            f"{path!r}, which is no file: correct the path, or leave it out."
        )
    return read_label_names(path)


def _num_shapes(config: ConfigDict) -> int:
    return len(CLASSES) * (config.data.shapes.train_scenes + config.data.shapes.test_scenes)


def _moving_shapes(config: ConfigDict, workdir: str | os.PathLike) -> Path:
    directory = Path(config.data.root or Path(workdir) / "moving_shapes")
    if jax.process_index() == 0:
        directory.parent.mkdir(parents=True, exist_ok=True)
        videos = Progress(_num_shapes(config), lambda line: log.info("moving_shapes: %s", line))
        with rename_arguments(argument_names.SHAPES):
            write_moving_shapes(
                directory, **config.data.shapes, progress=lambda *_: videos.add(len(CLASSES))
            )
    wait_for_all("moving_shapes is written")
    return directory


def starting_weights(config: ConfigDict) -> Callable[[models.SwinTransformer3D], Any] | None:
    """Return the function that loads the initial weights into a model; None for random weights.

    Raises:
      InputError: at once, if init is "pretrained" and init_from does not name existing weights.
    """
    if config.init == "scratch":
        return None
    if not weights_exist(config.init_from):
        raise InputError(_missing_weights(config))
    return lambda model: load_weights(config.init_from, model)["params"]


def _missing_weights(config: ConfigDict) -> str:
    what = "is unset"
    if config.init_from:
        what = f"is {config.init_from!r}, which is neither a file nor a released checkpoint"
        what += _similar_weights(config.init_from)
    published = f" (the recipe's: {config.init_published})" if config.init_published else ""
    return (
        f"This run starts from pretrained weights but config.init_from {what}: give them as "
        f"--config.init_from=PATH, a released checkpoint's name or a URL{published}, or set "
        f"--config.init=scratch to train from random weights."
    )


def _similar_weights(name: str) -> str:
    released = {*RELEASED, *(one.file.removesuffix(".pth") for one in RELEASED.values())}
    near = difflib.get_close_matches(name.removesuffix(".pth"), sorted(released), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def has_checkpoint(workdir: str | os.PathLike) -> bool:
    """Return True if a run in `workdir` has saved a checkpoint."""
    return bool(checkpoint.steps_in(Path(workdir) / "checkpoints"))
