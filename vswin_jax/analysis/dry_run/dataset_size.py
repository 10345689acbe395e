"""Numbers of videos and classes that a dry run plans for."""

import os
from dataclasses import dataclass

from ml_collections import ConfigDict

from vswin_jax.config import argument_names
from vswin_jax.data.example import Source
from vswin_jax.data.moving_shapes.moving_shapes import CLASSES
from vswin_jax.data.sources.published import without_split
from vswin_jax.data.sources.sources import open_source
from vswin_jax.errors import InputError, rename_arguments
from vswin_jax.runtime.label_names import read_label_names


@dataclass(frozen=True)
class DatasetSize:
    """The size of a data set.

    Attributes:
      classes: The number of classes.
      training: The videos of an epoch.
      held_out: The videos that an evaluation scores; None if they are unknown.
      origin: The place that the numbers come from, in words.
      assumed: Sentences about numbers that the config leaves open.
    """

    classes: int
    training: int
    held_out: int | None
    origin: str
    assumed: tuple[str, ...] = ()


_SOURCE = "Video Swin (arXiv:2106.13230), section 4.1"
# In the numbers of the paper: classes, training videos, held-out videos. By the beginning of the
# recipe's name.
_PUBLISHED = {
    "k400": ("Kinetics-400", 400, 240_000, 20_000),
    "k600": ("Kinetics-600", 600, 370_000, 28_300),
    "ssv2": ("Something-Something v2", 174, 168_900, 24_700),
}


@rename_arguments(argument_names.SOURCE)
def dataset_size(config: ConfigDict) -> DatasetSize:
    """Count the videos and classes of a config's data; where it is not here, of its recipe's.

    Raises:
      InputError: The data is here, but cannot be read.
    """
    if config.data.kind == "moving_shapes":
        return _moving_shapes(config)
    source = _open_if_here(config, "train", _label_names(config.data.label_names))
    return _published(config) if source is None else _counted(config, source)


def _label_names(path: str) -> tuple[str, ...] | None:
    return read_label_names(path) if os.path.isfile(path) else None


def _moving_shapes(config: ConfigDict) -> DatasetSize:
    shapes, classes = config.data.shapes, len(CLASSES)
    sizes = shapes.train_scenes * classes, shapes.test_scenes * classes
    return DatasetSize(classes, *sizes, "moving_shapes, which the run writes")


def _counted(config: ConfigDict, source: Source) -> DatasetSize:
    held_out = _open_if_here(config, "eval", source.label_names)
    count = None if held_out is None else len(held_out)
    return DatasetSize(len(source.label_names), len(source), count, f"{config.data.train!r}")


def _open_if_here(
    config: ConfigDict, split: str, label_names: tuple[str, ...] | None = None
) -> Source | None:
    path, data = config.data[split], config.data
    if not path:
        return None
    try:
        return open_source(
            path,
            root=data.root,
            kind=data.format,
            label_names=label_names,
            num_classes=config.model.num_classes,
            must_exist=False,
            multi_label=data.multi_label,
        )
    except InputError:
        if os.path.exists(without_split(path)):
            raise
        return None


def _published(config: ConfigDict) -> DatasetSize:
    recipe = next((name for name in _PUBLISHED if config.name.startswith(name)), "k400")
    title, classes, training, held_out = _PUBLISHED[recipe]
    assumed = (
        f"an epoch has {training:,} videos and an evaluation {held_out:,}, those of {title} in "
        f"{_SOURCE} ({_why(config.data.train)})",
    )
    if config.model.num_classes is None:
        unset = f"there are {classes} classes (config.model.num_classes is unset)"
        assumed = (unset, *assumed)
    known = config.model.num_classes or classes
    return DatasetSize(known, training, held_out, f"{title}, in round numbers", assumed)


def _why(path: str) -> str:
    return f"{path!r} is not on this machine" if path else "config.data.train is unset"
