"""PyTorch files and our own checkpoints as parameter trees; no torch, no TensorFlow."""

from vswin_jax.weights.export import export_state_dict, write_safetensors
from vswin_jax.weights.files.read import is_there, read_state
from vswin_jax.weights.files.torch_file import read_torch_file, state_dict_of
from vswin_jax.weights.inflation.inflate import inflate, is_2d
from vswin_jax.weights.inflation.resize import resize
from vswin_jax.weights.layouts.classifier import select_classes
from vswin_jax.weights.layouts.describe import Description, describe
from vswin_jax.weights.layouts.layouts import (
    LAYOUTS_2D,
    LAYOUTS_3D,
    detect,
    from_canonical,
    to_canonical,
)
from vswin_jax.weights.layouts.names import from_state_dict, to_state_dict
from vswin_jax.weights.load import load_weights, load_with_report
from vswin_jax.weights.load_report import Entry, Report
from vswin_jax.weights.zoo import RELEASED, Released, fetch, find

__all__ = [
    "LAYOUTS_2D",
    "LAYOUTS_3D",
    "RELEASED",
    "Description",
    "Entry",
    "Released",
    "Report",
    "describe",
    "detect",
    "export_state_dict",
    "fetch",
    "find",
    "from_canonical",
    "from_state_dict",
    "inflate",
    "is_2d",
    "is_there",
    "load_weights",
    "load_with_report",
    "read_state",
    "read_torch_file",
    "resize",
    "select_classes",
    "state_dict_of",
    "to_canonical",
    "to_state_dict",
    "write_safetensors",
]
