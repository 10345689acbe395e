"""From a config to the parts of a run: its data, its clips, its model and its first weights."""

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vswin_jax import checkpoint, models
from vswin_jax.data.clips.clips import ClipSpec
from vswin_jax.data.clips.mirrored_labels import mirrored_labels
from vswin_jax.data.example import Source
from vswin_jax.data.moving_shapes.moving_shapes import write_moving_shapes
from vswin_jax.data.sources.labels import check_same_names, read_label_names
from vswin_jax.data.sources.sources import open_source
from vswin_jax.errors import InputError
from vswin_jax.runtime.distributed import wait_for_all
from vswin_jax.training.task import task_of
from vswin_jax.weights import is_there, load_weights


def clip_spec(config: ConfigDict) -> ClipSpec:
    """How the config cuts clips, with its test views."""
    data, views = config.data, config.eval
    return ClipSpec(
        num_frames=data.num_frames,
        frame_interval=data.frame_interval,
        sampling=data.sampling,
        # Older checkpoints do not know it.
        fps=data.get("fps", 0.0),
        resize=data.resize,
        size=data.size,
        area=tuple(data.area),
        aspect=tuple(data.aspect),
        flip=data.flip,
        clips=views.clips,
        crops=views.crops,
        eval_resize=views.resize,
        repeat_first_frame=data.repeat_first_frame,
        rand_augment_n=data.rand_augment.n,
        rand_augment_m=data.rand_augment.m,
    )


def training_order(config: ConfigDict, source: Source) -> dict[str, Any]:
    """What `train_batches` needs to know of the config but how to cut clips.

    Raises:
        InputError: the classes of `source` do not pair as config.data.flip_labels says.
    """
    data = config.data
    names = source.label_names
    return {
        "batch_size": config.train.batch_size,
        "seed": config.seed,
        "class_balance": data.class_balance,
        "repeats": data.repeats,
        "mirrored_labels": mirrored_labels(data.flip_labels, names) if data.flip_labels else None,
    }


def build_model(config: ConfigDict, num_classes: int) -> models.SwinTransformer3D:
    """The config's model; fields that are None keep the variant's own values."""
    settings = {**config.model, "num_classes": num_classes}
    # Older checkpoints name it; blocks are no longer looped over.
    settings.pop("scan", None)
    return models.create_model(settings.pop("name"), **settings)


def split_over(
    mesh: Mesh, config: ConfigDict, model: models.SwinTransformer3D
) -> models.SwinTransformer3D:
    """`model` with its clips split over the mesh's window axis as the config says.

    Raises:
        InputError: clips of the config's size do not split so.
    """
    clip = (config.data.num_frames, config.data.size, config.data.size)
    return models.split_clips(model, mesh, config.mesh.window_over, clip)


def open_split(
    config: ConfigDict,
    workdir: str | os.PathLike,
    split: str,
    label_names: Sequence[str] | None = None,
) -> Source:
    """The videos of "train" or "eval"; moving_shapes are written first if they are not there.

    `label_names` are those of the training set, which evaluation must share. A training set must
    share those of the run that goes on in `workdir`, if one does.

    Raises:
        InputError: nothing set, nothing there, no data that can be understood, or other classes.
    """
    written = _label_names(config.data.label_names)
    if label_names and written:
        check_same_names(label_names, written, config.data.label_names)
    source = _open_split(config, workdir, split, label_names or written)
    if split == "train":
        _check_goes_on(config, workdir, source.label_names)
    return source


def _check_goes_on(
    config: ConfigDict, workdir: str | os.PathLike, label_names: Sequence[str]
) -> None:
    # Training puts damaged checkpoints aside, or ends when there are no others.
    path = checkpoint.newest_readable(Path(workdir) / "checkpoints")
    if path is not None:
        saved = checkpoint.read_metadata(path)
        _check_same_task(config, saved, path)
        # `train` keeps what its caller gives it, which may be nothing.
        if saved.get("label_names"):
            source = config.data.train or config.data.kind
            check_same_names(saved["label_names"], label_names, source)


def _check_same_task(config: ConfigDict, saved: Mapping[str, Any], path: str | os.PathLike) -> None:
    if "config" in saved and task_of(saved["config"]) is not task_of(config):
        raise InputError(
            f"Expected config.data.multi_label to be {not config.data.multi_label}, as the "
            f"checkpoint '{path}' was trained with, but it is {config.data.multi_label}: set it, "
            f"or start in an empty workdir."
        )


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
    return open_source(
        path,
        root=config.data.root,
        kind=config.data.format,
        label_names=names,
        num_classes=config.model.num_classes,
        # In training another video takes the place of one that is not there.
        must_exist=split != "train",
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


def _moving_shapes(config: ConfigDict, workdir: str | os.PathLike) -> Path:
    directory = Path(config.data.root or Path(workdir) / "moving_shapes")
    if jax.process_index() == 0:
        directory.parent.mkdir(parents=True, exist_ok=True)
        write_moving_shapes(directory, **config.data.shapes)
    wait_for_all("moving_shapes is written")
    return directory


def starting_weights(config: ConfigDict) -> Callable[[models.SwinTransformer3D], Any] | None:
    """What loads the weights that the config starts from into a model; None for random weights.

    Raises:
        InputError: at once, when init says "pretrained" and init_from does not name what is there.
    """
    if config.init == "scratch":
        return None
    if not is_there(config.init_from):
        raise InputError(_missing_weights(config))
    return lambda model: load_weights(config.init_from, model)["params"]


def _missing_weights(config: ConfigDict) -> str:
    what = "is unset"
    if config.init_from:
        what = f"is {config.init_from!r}, where nothing is and which is no released checkpoint"
    published = f" (the recipe's: {config.init_published})" if config.init_published else ""
    return (
        f"This run starts from pretrained weights but config.init_from {what}: give them as "
        f"--config.init_from=PATH, a released checkpoint's name or a URL{published}, or say "
        f"--config.init=scratch to train from random weights."
    )


def has_checkpoint(workdir: str | os.PathLike) -> bool:
    """Whether a run in `workdir` has saved anything."""
    return bool(checkpoint.steps_in(Path(workdir) / "checkpoints"))


@dataclass(frozen=True)
class Weights:
    """Trained parameters: `load(model)` gives them, checked against the model.

    label_names and step are None for a file of weights, which does not say.
    """

    load: Callable[[models.SwinTransformer3D], Any]
    label_names: tuple[str, ...] | None = None
    step: int | None = None


def weights_to_evaluate(config: ConfigDict, workdir: str | os.PathLike) -> Weights:
    """Those of the run in `workdir`, or where it has none those of `config.init_from`.

    `config.eval.checkpoint` says whether the latest or the best step of the workdir counts. The
    latest is the latest one that is intact, and the log says which ones are not; but for the best
    there is no other.

    Raises:
        InputError: neither is there; all that was saved is damaged, or the best is; later, from
            `load`, they are of another model.
    """
    path = config.init_from
    if has_checkpoint(workdir):
        path = Path(workdir) / "checkpoints"
        path = checkpoint.latest_intact(path) if config.eval.checkpoint == "latest" else path
    elif not is_there(path):
        raise InputError(
            f"Expected a checkpoint to evaluate but {str(workdir)!r} has none: train first, or "
            f"give weights as --config.init_from=PATH, a released checkpoint's name or a URL."
        )
    if not os.path.isdir(path):
        return Weights(lambda model: load_weights(path, model, allow_fresh=())["params"])
    params, metadata = checkpoint.load_for_inference(path)
    _check_same_task(config, metadata, path)
    load = functools.partial(_matched, params)
    return Weights(load, tuple(metadata["label_names"]), metadata["step"])


def _matched(params: Any, model: models.SwinTransformer3D) -> Any:
    shapes = jax.eval_shape(lambda: models.init_params(model, jax.random.key(0)))
    checkpoint.check_matches(params, shapes)
    return params
