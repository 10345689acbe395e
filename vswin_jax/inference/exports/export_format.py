"""The functions and facts that a format of exports consists of."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float32, UInt8
from numpy import ndarray

from vswin_jax.inference.trained_model import TrainedModel

ExportCall = Callable[[UInt8[ndarray, "B T H W 3"]], Float32[ndarray, "B K"]]


@dataclass(frozen=True)
class ExportFormat:
    """A format of exports.

    Attributes:
      name: the format's name, as `--to` takes it.
      write: writes the export of a model to a path.
      open: loads an export for calls with clips.
      usage: a line of Python that loads FILE and calls it.
      layers: the implementation of the layers on each platform, in words.
      is_directory: True for a directory, False for a file.
      check: raises an `InputError` if libraries are missing, before anything is loaded.
      dtype: the only compute dtype of the format; None for all.
    """

    name: str
    write: Callable[[TrainedModel, Path], None]
    open: Callable[[Path], ExportCall]
    usage: str
    layers: Mapping[str, str]
    is_directory: bool
    check: Callable[[], None] = lambda: None
    dtype: str | None = None
