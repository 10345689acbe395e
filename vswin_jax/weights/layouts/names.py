"""Converts the names and axes of a PyTorch state_dict to those of the Flax tree, and back.

State_dicts here have canonical names; `layouts` converts other layouts to these.
"""

import re
from collections.abc import Mapping

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

Params = dict[str, object]


def to_path(name: str, ndim: int) -> str:
    """Return the Flax path of a canonical name: `layers_0/norm/scale` of `layers.0.norm.weight`.

    `ndim` is the rank of the tensor: a weight of rank 1 is a LayerNorm's scale.
    """
    path = re.sub(r"\b(layers|blocks)\.(\d+)\.", r"\1_\2.", name).replace(".", "/")
    if path.endswith("/weight"):
        return path.removesuffix("weight") + ("scale" if ndim == 1 else "kernel")
    return path


def to_name(path: str) -> str:
    """Return the canonical name of a Flax path: the inverse of `to_path`."""
    name = re.sub(r"/(scale|kernel)$", "/weight", path).replace("/", ".")
    return re.sub(r"\b(layers|blocks)_(\d+)\b", r"\1.\2", name)


def _to_flax_axes(path: str, value: np.ndarray) -> np.ndarray:
    """Transpose PyTorch's `[out, in, time, height, width]` to `[time, height, width, in, out]`."""
    if not path.endswith("/kernel") or value.ndim < 2:
        return value
    return value.transpose(*range(2, value.ndim), 1, 0)


def _to_torch_axes(path: str, value: np.ndarray) -> np.ndarray:
    """Invert `_to_flax_axes`."""
    if not path.endswith("/kernel") or value.ndim < 2:
        return value
    return value.transpose(-1, -2, *range(value.ndim - 2))


def from_state_dict(state: Mapping[str, np.ndarray]) -> Params:
    """Convert a canonical state_dict to a parameter tree of views, with unchanged dtypes."""
    flat = {}
    for name, value in state.items():
        path = to_path(name, value.ndim)
        flat[path] = _to_flax_axes(path, value)
    return unflatten_dict(flat, sep="/")


def to_state_dict(params: Params) -> dict[str, np.ndarray]:
    """Convert a parameter tree to a canonical state_dict: the inverse of `from_state_dict`."""
    return {
        to_name(path): _to_torch_axes(path, np.asarray(value))
        for path, value in flatten_dict(params, sep="/").items()
    }
