"""What a conversion makes: the model, the names of its classes and the config of its checkpoint."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from vswin_jax.attention import Size
from vswin_jax.checkpoint import read_metadata
from vswin_jax.config import base_config
from vswin_jax.errors import InputError
from vswin_jax.models import SwinTransformer3D, create_model
from vswin_jax.weights.files.read import locate, read_state
from vswin_jax.weights.layouts import layouts
from vswin_jax.weights.layouts.classifier import known_names
from vswin_jax.weights.layouts.describe import Description, describe, index_tokens

Names = tuple[str, ...]

# The models of Something-Something v2 have this many classes and see one clip of a whole video.
_SSV2_CLASSES = 174


@dataclass(frozen=True)
class Wishes:
    """What the result shall be where it shall not be what the source is.

    model: a variant; window: in tokens, patch: in frames and pixels, both (time, height, width);
    labels: a text file with a class name a line, in order, which names the classes, or picks and
    orders those of the source's head; patches, tables: how an image model is inflated.
    """

    model: str | None = None
    window: Size | None = None
    patch: Size | None = None
    num_classes: int | None = None
    labels: str | os.PathLike[str] | None = None
    patches: str = "inflate"
    tables: str = "duplicate"


@dataclass(frozen=True)
class _Given:
    """A source: `create_model`'s settings for it, and what a checkpoint of ours says besides."""

    settings: Mapping[str, Any]
    num_classes: int
    label_names: Names | None = None
    config: Mapping[str, Any] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Wanted:
    """The model to fill and what `predict` and `evaluate` need to know of it.

    loading: further arguments of `load_with_report`.
    """

    model: SwinTransformer3D
    label_names: Names
    config: ConfigDict
    loading: Mapping[str, Any]


def decide(source: str | os.PathLike[str], wishes: Wishes) -> Wanted:
    """What comes of `source` under these `wishes`.

    Raises:
      InputError: the source cannot be read, or the wishes cannot be met.
    """
    given = _of_a_checkpoint(source) or _of_a_file(source, wishes.window)
    settings = _settings(given, wishes)
    names = _label_names(given, wishes)
    model = create_model(**settings, num_classes=len(names))
    loading = {"patches": wishes.patches, "tables": wishes.tables, **_rows(given, wishes, names)}
    config = ConfigDict(given.config) if given.config else _config(model)
    with config.unlocked():
        config.model.update(settings, num_classes=len(names))
    return Wanted(model, names, config, loading)


def _of_a_checkpoint(source: str | os.PathLike[str]) -> _Given | None:
    path = locate(source)
    if not path.is_dir():
        return None
    metadata = read_metadata(path)
    # `train` keeps what its caller gives it, which may be nothing.
    if not {"config", "label_names"} <= metadata.keys():
        return None
    names, config = tuple(metadata["label_names"]), metadata["config"]
    settings = {key: value for key, value in config["model"].items() if value is not None}
    settings.pop("num_classes", None)
    return _Given(settings, len(names), names, config)


def _of_a_file(source: str | os.PathLike[str], window: Size | None) -> _Given:
    raw = read_state(source)
    found = _described(layouts.to_canonical(raw), index_tokens(raw), window)
    settings = {"dtype": "float32", **found.model_overrides()}
    del settings["num_classes"]
    return _Given(settings, found.num_classes)


def _described(
    state: Mapping[str, np.ndarray], tokens: int | None, window: Size | None
) -> Description:
    try:
        return describe(state, index_tokens=tokens)
    except InputError:
        # The tables may be of several windows; the wish says of which.
        if window is None:
            raise
        return describe(state, window_size=window)


def _settings(given: _Given, wishes: Wishes) -> dict[str, Any]:
    """`create_model`'s, but for the class count."""
    settings = dict(given.settings)
    if wishes.model is not None:
        settings["name"] = wishes.model
        for key in ("embed_dim", "depths", "num_heads"):
            settings.pop(key, None)
    if wishes.window is not None:
        settings["window_size"] = wishes.window
    if wishes.patch is not None:
        settings["patch_size"] = wishes.patch
    return settings


def _label_names(given: _Given, wishes: Wishes) -> Names:
    count = given.num_classes if wishes.num_classes is None else wishes.num_classes
    if count < 0:
        raise InputError(f"Expected a number of classes but {count} came: give 1 or more.")
    if wishes.labels is not None:
        names = _read_labels(Path(wishes.labels))
        if wishes.num_classes not in (None, len(names)):
            raise InputError(
                f"{wishes.labels} names {len(names)} classes but {count} were asked for: leave "
                f"one of them out."
            )
        return names
    if given.label_names and len(given.label_names) == count:
        return given.label_names
    return known_names(count) or tuple(f"class_{index}" for index in range(count))


def _read_labels(path: Path) -> Names:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"Expected a text file with one class name a line but {path} cannot be read "
            f"({type(error).__name__}): correct the path."
        ) from None
    names = tuple(line.strip() for line in lines if line.strip())
    if not names:
        raise InputError(f"Expected one class name a line but {path} has none: write them there.")
    return names


def _rows(given: _Given, wishes: Wishes, names: Names) -> dict[str, Names | None]:
    """Which names the head's rows have, where a label file asks for some of them."""
    if wishes.labels is None:
        return {}
    old = given.label_names or known_names(given.num_classes)
    is_naming = len(names) == given.num_classes and not set(old or ()) & set(names)
    return {"label_names": names, "source_labels": names if is_naming else old}


def _config(model: SwinTransformer3D) -> ConfigDict:
    """The published protocol: 32 frames, every second one, in 4 clips x 3 crops.

    The pictures are as large as makes the last stage one window: 224 pixels for windows of 7 and
    patches of 4, 384 for windows of 12.
    """
    config = base_config()
    size = model.window_size[1] * model.patch_size[1] * 2 ** (len(model.depths) - 1)
    config.data.update(size=size, resize=size * 8 // 7)
    config.eval.resize = size
    if model.num_classes == _SSV2_CLASSES:
        config.data.update(sampling="uniform", flip=0.0)
        config.eval.clips = 1
    return config
