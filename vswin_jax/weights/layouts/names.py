"""The names and axes of a PyTorch Swin, and ours: one table, read in both directions.

Names here are the canonical ones; `layouts` renames those of other layouts to these first.
"""

import re
from collections.abc import Mapping

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

Params = dict[str, object]


def to_path(name: str, ndim: int) -> str:
    """Our path of the canonical `name`: `layers.0.norm.weight` is `layers_0/norm/scale`."""
    path = re.sub(r"\b(layers|blocks)\.(\d+)\.", r"\1_\2.", name).replace(".", "/")
    if path.endswith("/weight"):
        return path.removesuffix("weight") + ("scale" if ndim == 1 else "kernel")
    return path


def to_name(path: str) -> str:
    """The inverse of `to_path`."""
    name = re.sub(r"/(scale|kernel)$", "/weight", path).replace("/", ".")
    return re.sub(r"\b(layers|blocks)_(\d+)\b", r"\1.\2", name)


def _to_our_axes(path: str, value: np.ndarray) -> np.ndarray:
    """PyTorch's [out, in, time, height, width] to ours, output last."""
    if not path.endswith("/kernel") or value.ndim < 2:
        return value
    return value.transpose(*range(2, value.ndim), 1, 0)


def _to_their_axes(path: str, value: np.ndarray) -> np.ndarray:
    """The inverse of `_to_our_axes`."""
    if not path.endswith("/kernel") or value.ndim < 2:
        return value
    return value.transpose(-1, -2, *range(value.ndim - 2))


def from_state_dict(state: Mapping[str, np.ndarray]) -> Params:
    """A parameter tree from a canonical state_dict, in its own dtypes and without copies."""
    flat = {}
    for name, value in state.items():
        path = to_path(name, value.ndim)
        flat[path] = _to_our_axes(path, value)
    return unflatten_dict(flat, sep="/")


def to_state_dict(params: Params) -> dict[str, np.ndarray]:
    """The canonical state_dict of a parameter tree: the inverse of `from_state_dict`."""
    return {
        to_name(path): _to_their_axes(path, np.asarray(value))
        for path, value in flatten_dict(params, sep="/").items()
    }
