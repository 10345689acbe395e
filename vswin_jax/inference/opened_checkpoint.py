"""Opens any checkpoint for inference: a run, a released name, a URL, a file of another program."""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from vswin_jax import checkpoint, factory
from vswin_jax.config.renames import load_saved_config
from vswin_jax.errors import InputError, first_line
from vswin_jax.models import SwinTransformer3D
from vswin_jax.weights import find_weight_file, is_2d, load_with_report, to_canonical
from vswin_jax.weights.convert import RANDOM_PARAMETERS
from vswin_jax.weights.files.read import locate, read_state_dict
from vswin_jax.weights.layouts.target_spec import TargetSpec, resolve_target
from vswin_jax.weights.zoo import is_url

Source = str | os.PathLike[str]
LoadParams = Callable[[SwinTransformer3D], Any]


@dataclass(frozen=True)
class OpenedCheckpoint:
    """A checkpoint whose settings are read, and whose parameters are not loaded yet.

    Attributes:
      source: the checkpoint as the caller named it.
      path: the local file or directory with the parameters.
      config: the config of the run, or that of the published protocol for other weights.
      label_names: the names of the classes.
      step: the training step; None for weights of another program.
      note: a line on the step or the file that was taken.
      load: a function from the model to its parameters, which are NumPy arrays.
      random: canonical names of parameters that are known to have random values.
    """

    source: str
    path: str
    config: ConfigDict
    label_names: tuple[str, ...]
    step: int | None
    note: str
    load: LoadParams
    random: tuple[str, ...] = ()

    def build_model(self, dtype: str | None = None) -> SwinTransformer3D:
        """Build the model, with another compute dtype if one is given."""
        config = self.config.copy_and_resolve_references()
        if dtype is not None:
            config.model.dtype = dtype
        return factory.build_model(config, len(self.label_names))

    def head_warning(self, params: Mapping[str, Any]) -> str | None:
        """Return a sentence about a classifier that was never trained; None for a trained one."""
        # A fresh head has a bias of zeros, which training changes with its first step.
        bias = np.asarray(params["head"]["bias"]) if "head" in params else np.ones(1)
        if not self.random and bias.any():
            return None
        return (
            f"the classifier of {self.source!r} has random weights, so its predictions mean "
            f"nothing: train it first, with --config.init_from={self.source}"
        )


def open_checkpoint(
    source: Source,
    which: str = "latest",
    labels: Source | None = None,
    *,
    needs_classifier: bool = True,
) -> OpenedCheckpoint:
    """Open a checkpoint.

    Args:
      source: a run's directory, one of its checkpoints, a converted directory, a released
        checkpoint's name, a URL, a PyTorch, safetensors or npz file, or a Hugging Face directory.
      which: "latest" or "best", for the directory of a run.
      labels: a text file with one class name a line, as `TargetSpec.labels`.
      needs_classifier: accept only weights with a classifier of videos. Without it, weights that
        have none open without classes, as a model of features; an image model is inflated.

    Raises:
      InputError: there is no such checkpoint, or it has no classifier of videos.
    """
    text = os.path.expanduser(os.fspath(source))
    if is_weights(text):
        return _open_weights(text, labels, needs_classifier)
    with _reraise_remote(text):
        chosen = checkpoint.choose_step(text, which)
        metadata = checkpoint.read_metadata(chosen.directory)
    _check_metadata(metadata, chosen.directory)
    if labels is not None:
        return _open_renamed(text, chosen, labels)
    return OpenedCheckpoint(
        source=text,
        path=os.fspath(chosen.directory),
        config=load_saved_config(metadata["config"]),
        label_names=tuple(metadata["label_names"]),
        step=chosen.step,
        note=chosen.describe(),
        load=functools.partial(_load_step, chosen),
        random=tuple(metadata.get(RANDOM_PARAMETERS, ())),
    )


def is_weights(source: str) -> bool:
    """Return True for weights of another program; False for a run or a checkpoint of vswin_jax."""
    if os.path.isdir(source):
        return find_weight_file(Path(source)) is not None
    is_remote_run = is_url(source) and not source.startswith(("http://", "https://"))
    return not is_remote_run


@contextlib.contextmanager
def _reraise_remote(source: str) -> Iterator[None]:
    """Re-raise errors of a bucket, whose exceptions are of the library that reads it."""
    try:
        yield
    except Exception as error:
        if isinstance(error, InputError) or not is_url(source):
            raise
        reason = first_line(error, 200)
        raise InputError(
            f"The checkpoint at {source} cannot be read ({reason}): check the address and the "
            f"network, or copy it to this machine."
        ) from error


def _check_metadata(metadata: Mapping[str, Any], directory: object) -> None:
    if not {"config", "label_names"} <= metadata.keys():
        raise InputError(
            f"Expected a checkpoint with the config and the class names of its run but "
            f"'{directory}' has none: give one that `python -m vswin_jax.main` or "
            f"scripts/convert_weights.py has written."
        )


def _load_step(chosen: checkpoint.ChosenStep, model: SwinTransformer3D) -> Any:
    params, _ = checkpoint.load_step(chosen)
    return factory.check_params(params, model)


def _open_renamed(source: str, chosen: checkpoint.ChosenStep, labels: Source) -> OpenedCheckpoint:
    """Open a step whose classes are those of the file `labels`."""
    target = resolve_target(os.fspath(chosen.directory), TargetSpec(labels=labels))
    path = os.fspath(chosen.directory)
    return OpenedCheckpoint(
        source=source,
        path=path,
        config=target.config,
        label_names=target.label_names,
        step=chosen.step,
        note=chosen.describe(),
        load=functools.partial(_load_weights, path, target.load_options),
    )


def _open_weights(source: str, labels: Source | None, needs_classifier: bool) -> OpenedCheckpoint:
    path = locate(source)
    state = to_canonical(read_state_dict(path))
    is_image, has_head = is_2d(state), np.ndim(state.get("head.weight")) == 2
    del state
    if needs_classifier:
        _check_classifier(source, is_image, has_head)
    # The classes of an image model are not those of videos.
    spec = TargetSpec(num_classes=0) if is_image or not has_head else TargetSpec(labels=labels)
    target = resolve_target(path, spec)
    data = target.config.data
    return OpenedCheckpoint(
        source=source,
        path=os.fspath(path),
        config=target.config,
        label_names=target.label_names,
        step=None,
        note=(
            f"the weights in '{path}' ({target.config.model.name}, {len(target.label_names)} "
            f"classes; clips of {data.num_frames}x{data.size}x{data.size} as published)"
        ),
        load=functools.partial(_load_weights, path, target.load_options),
    )


def _check_classifier(source: str, is_image: bool, has_head: bool) -> None:
    if has_head and not is_image:
        return
    what = "a model of images, without a classifier of videos" if is_image else "without classifier"
    raise InputError(
        f"Expected a trained classifier of videos but {source} is {what}: train one from it with "
        f"`python -m vswin_jax.main --config experiments/finetune_folder.py:root=my_videos "
        f"--workdir runs/mine --config.init_from={source}`, and give runs/mine."
    )


def _load_weights(path: Source, options: Mapping[str, Any], model: SwinTransformer3D) -> Any:
    variables, _ = load_with_report(path, model, **options, allow_fresh=())
    return variables["params"]
