"""Resolves a target spec: the model, class names and config that a conversion produces."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from vswin_jax.attention import Size
from vswin_jax.checkpoint import read_metadata
from vswin_jax.config import base_config
from vswin_jax.config.renames import load_saved_config
from vswin_jax.errors import InputError
from vswin_jax.models import SwinTransformer3D, create_model
from vswin_jax.runtime.label_names import read_label_names
from vswin_jax.weights.files.read import locate, read_state_dict
from vswin_jax.weights.layouts import layouts
from vswin_jax.weights.layouts.classifier import known_class_names
from vswin_jax.weights.layouts.describe import Description, count_window_tokens, describe

Names = tuple[str, ...]

# The class count of Something-Something v2, whose models read one clip sampled from a whole video.
_SSV2_CLASSES = 174


@dataclass(frozen=True)
class TargetSpec:
    """The settings in which the target of a conversion may differ from its source.

    Attributes:
      model: a model variant.
      window: (time, height, width) in tokens.
      patch: (time, height, width) in frames and pixels.
      num_classes: outputs of the head.
      labels: a text file with one class name per line. It names the classes, or selects and orders
        those of the source's head.
      patches: the method to inflate the patch kernel of an image model.
      tables: the method to inflate the bias tables of an image model.
      image_head: "fresh" or "keep": the treatment of the classifier of an image model.
      prefix: components before the names of the Swin to take, if the source has several.
    """

    model: str | None = None
    window: Size | None = None
    patch: Size | None = None
    num_classes: int | None = None
    labels: str | os.PathLike[str] | None = None
    patches: str = "inflate"
    tables: str = "duplicate"
    image_head: str = "fresh"
    prefix: str | None = None


@dataclass(frozen=True)
class _SourceModel:
    """The source's settings for `create_model`, and the metadata of a vswin_jax checkpoint."""

    settings: Mapping[str, Any]
    num_classes: int
    label_names: Names | None = None
    config: Mapping[str, Any] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class ConversionTarget:
    """The model of a converted checkpoint, and the metadata that prediction and evaluation need.

    Attributes:
      model: the model to load the weights into.
      label_names: the names of its classes.
      config: the config of the checkpoint.
      load_options: further arguments of `load_with_report`.
    """

    model: SwinTransformer3D
    label_names: Names
    config: ConfigDict
    load_options: Mapping[str, Any]


def resolve_target(source: str | os.PathLike[str], spec: TargetSpec) -> ConversionTarget:
    """Return the target of a conversion of `source`.

    Raises:
      InputError: the source cannot be read, or cannot become a model of this spec.
    """
    source_model = _read_checkpoint(source) or _read_weight_file(source, spec)
    settings = _model_settings(source_model, spec)
    names = _label_names(source_model, spec)
    model = create_model(**settings, num_classes=len(names))
    label_options = _label_options(source_model, spec, names)
    config = ConfigDict(source_model.config) if source_model.config else _default_config(model)
    with config.unlocked():
        config.model.update(settings, num_classes=len(names))
    return ConversionTarget(
        model=model,
        label_names=names,
        config=config,
        load_options={
            "patches": spec.patches,
            "tables": spec.tables,
            "image_head": spec.image_head,
            "prefix": spec.prefix,
            **label_options,
        },
    )


def _read_checkpoint(source: str | os.PathLike[str]) -> _SourceModel | None:
    """Return the model of a vswin_jax checkpoint; None for any other source."""
    path = locate(source)
    if not path.is_dir():
        return None
    metadata = read_metadata(path)
    # A caller of `train` may save checkpoints without a config; the model is then inferred.
    if not {"config", "label_names"} <= metadata.keys():
        return None
    names = tuple(metadata["label_names"])
    config = load_saved_config(metadata["config"]).to_dict()
    settings = {key: value for key, value in config["model"].items() if value is not None}
    settings.pop("num_classes", None)
    return _SourceModel(settings, len(names), names, config)


def _read_weight_file(source: str | os.PathLike[str], spec: TargetSpec) -> _SourceModel:
    raw = read_state_dict(source, spec.prefix)
    found = _describe(layouts.to_canonical(raw), count_window_tokens(raw), spec.window)
    settings = {"dtype": "float32", **found.model_overrides()}
    del settings["num_classes"]
    return _SourceModel(settings, found.num_classes)


def _describe(
    state: Mapping[str, np.ndarray], tokens: int | None, window: Size | None
) -> Description:
    try:
        return describe(state, window_tokens=tokens)
    except InputError:
        # If several windows fit the tables, the source is assumed to have the target's window.
        if window is None:
            raise
        return describe(state, window_size=window)


def _model_settings(source_model: _SourceModel, spec: TargetSpec) -> dict[str, Any]:
    """Return the arguments of `create_model` except the class count."""
    settings = dict(source_model.settings)
    if spec.model is not None:
        settings["name"] = spec.model
        for key in ("embed_dim", "depths", "num_heads"):
            settings.pop(key, None)
    if spec.window is not None:
        settings["window_size"] = spec.window
    if spec.patch is not None:
        settings["patch_size"] = spec.patch
    return settings


def _label_names(source_model: _SourceModel, spec: TargetSpec) -> Names:
    count = source_model.num_classes if spec.num_classes is None else spec.num_classes
    if count < 0:
        raise InputError(f"Expected a number of classes but {count} came: give 1 or more.")
    if spec.labels is not None:
        return _read_labels(spec.labels, spec.num_classes)
    if source_model.label_names and len(source_model.label_names) == count:
        return source_model.label_names
    return known_class_names(count) or tuple(f"class_{index}" for index in range(count))


def _read_labels(path: str | os.PathLike[str], num_classes: int | None) -> Names:
    names = read_label_names(path)
    if not names:
        raise InputError(f"Expected one class name a line but {path} has none: add the names.")
    if num_classes not in (None, len(names)):
        raise InputError(
            f"{path} has {len(names)} class names but the given number of classes is "
            f"{num_classes}: give only one of the two."
        )
    return names


def _label_options(
    source_model: _SourceModel, spec: TargetSpec, names: Names
) -> dict[str, Names | None]:
    """Return the options of `load_with_report` that apply a label file to the source's head."""
    if spec.labels is None:
        return {}
    old = source_model.label_names or known_class_names(source_model.num_classes)
    # As many new names as rows, all of them unknown so far: the file names the rows in order.
    renames_all = len(names) == source_model.num_classes and not set(old or ()) & set(names)
    return {"label_names": names, "source_labels": names if renames_all else old}


def _default_config(model: SwinTransformer3D) -> ConfigDict:
    """Return the config of the published protocol: 32 frames, stride 2, 4 clips x 3 crops.

    The frame size makes the last stage one window: 224 pixels for windows of 7 and patches of 4,
    384 for windows of 12.
    """
    config = base_config()
    size = model.window_size[1] * model.patch_size[1] * 2 ** (len(model.depths) - 1)
    config.data.update(size=size, resize=size * 8 // 7)
    config.eval.resize = size
    if model.num_classes == _SSV2_CLASSES:
        config.data.update(sampling="uniform", flip=0.0)
        config.eval.num_clips = 1
    return config
