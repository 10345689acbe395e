"""The names and axes of a PyTorch Swin, and ours: one table, read in both directions.

Names here are those of the original Video Swin checkpoints without the `backbone.` prefix
(checkpoint_formats, section 1); other layouts are renamed to these first.
"""

import re
from collections.abc import Mapping

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

Params = dict[str, object]

# Index buffers and masks that PyTorch stores and geometry recomputes.
_BUFFERS = ("relative_position_index", "attn_mask")

_PREFIXES = {"backbone.": "", "cls_head.fc_cls.": "head."}


def canonical(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The parameters of a state_dict under their canonical names, without its buffers."""
    renamed = {}
    for name, value in state.items():
        if name.endswith(_BUFFERS):
            continue
        for prefix, ours in _PREFIXES.items():
            if name.startswith(prefix):
                name = ours + name.removeprefix(prefix)
        renamed[name] = value
    return renamed


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
    if not path.endswith("/kernel"):
        return value
    return value.T if value.ndim == 2 else value.transpose(2, 3, 4, 1, 0)


def _to_their_axes(path: str, value: np.ndarray) -> np.ndarray:
    """The inverse of `_to_our_axes`."""
    if not path.endswith("/kernel"):
        return value
    return value.T if value.ndim == 2 else value.transpose(4, 3, 0, 1, 2)


def from_state_dict(state: Mapping[str, np.ndarray]) -> Params:
    """A parameter tree from a 3D state_dict, in its own dtypes and without copies."""
    flat = {}
    for name, value in canonical(state).items():
        path = to_path(name, value.ndim)
        flat[path] = _to_our_axes(path, value)
    return unflatten_dict(flat, sep="/")


def to_state_dict(params: Params) -> dict[str, np.ndarray]:
    """The canonical state_dict of a parameter tree: the inverse of `from_state_dict`."""
    return {
        to_name(path): _to_their_axes(path, np.asarray(value))
        for path, value in flatten_dict(params, sep="/").items()
    }
