"""Reads and writes Swin weights of many libraries, without torch or TensorFlow."""

from vswin_jax.weights.files.read import read_state_dict, weights_exist
from vswin_jax.weights.files.torch_file import extract_state_dict, read_torch_file
from vswin_jax.weights.files.weight_directory import find_weight_file
from vswin_jax.weights.inflation.inflate import inflate, is_2d
from vswin_jax.weights.inflation.resize import resize
from vswin_jax.weights.layouts.classifier import select_classes
from vswin_jax.weights.layouts.describe import Description, describe
from vswin_jax.weights.layouts.layouts import (
    LAYOUTS_2D,
    LAYOUTS_3D,
    detect_layout,
    from_canonical,
    to_canonical,
)
from vswin_jax.weights.layouts.names import from_state_dict, to_state_dict
from vswin_jax.weights.load import load_weights, load_with_report
from vswin_jax.weights.load_report import LoadReport, LoadReportEntry
from vswin_jax.weights.pytorch_export import export_state_dict, write_safetensors, write_torch
from vswin_jax.weights.zoo import RELEASED, ReleasedCheckpoint, fetch, find_released

__all__ = [
    "LAYOUTS_2D",
    "LAYOUTS_3D",
    "RELEASED",
    "Description",
    "LoadReport",
    "LoadReportEntry",
    "ReleasedCheckpoint",
    "describe",
    "detect_layout",
    "export_state_dict",
    "extract_state_dict",
    "fetch",
    "find_released",
    "find_weight_file",
    "from_canonical",
    "from_state_dict",
    "inflate",
    "is_2d",
    "load_weights",
    "load_with_report",
    "read_state_dict",
    "read_torch_file",
    "resize",
    "select_classes",
    "to_canonical",
    "to_state_dict",
    "weights_exist",
    "write_safetensors",
    "write_torch",
]
