"""Weights from a file or a checkpoint directory into a model, with an account of every tensor."""

import logging
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from vswin_jax.checkpoint import check_matches, load_for_inference
from vswin_jax.errors import InputError
from vswin_jax.models import SwinTransformer3D, init_params
from vswin_jax.weights.inflate import inflate, is_2d
from vswin_jax.weights.names import Params, canonical, from_state_dict

_log = logging.getLogger(__name__)

_TO_SAFETENSORS = (
    "python -c \"import torch, safetensors.torch as s; c = torch.load('IN.pth', "
    "weights_only=False); c = c.get('state_dict', c.get('model', c)); "
    "s.save_file({k: v.clone() for k, v in c.items()}, 'OUT.safetensors')\""
)


def load_weights(path: str | Path, model: SwinTransformer3D, seed: int = 0) -> dict[str, Params]:
    """Variables of `model` with the weights at `path`.

    Args:
      path: a state_dict of a 3D or a 2D Swin as `.safetensors` or `.npz` (2D is inflated), or a
        checkpoint directory or workdir of ours.
      model: the model to fill. Its head stays freshly initialised, and a warning says so, when
        the file has none or one of another class count.
      seed: of the fresh head.

    Returns:
      `{"params": ...}`, float32.

    Raises:
      InputError: nothing readable at `path`, or any parameter but the head's is missing, has
        another shape, or has no place in the model.
    """
    loaded = flatten_dict(_read(Path(path), model), sep="/")
    wanted = flatten_dict(init_params(model, jax.random.key(seed)), sep="/")
    head = {name for name in wanted if name.startswith("head/")}
    fresh = {name for name in head if np.shape(loaded.get(name)) != wanted[name].shape}
    if fresh:
        fresh = head
        _log.warning("%s has no head of %d classes: ours starts fresh.", path, model.num_classes)
    loaded = {n: v for n, v in loaded.items() if not n.startswith("head/") or n in head - fresh}
    check_matches(loaded, {name: wanted[name] for name in wanted if name not in fresh}, str(path))
    values = {n: wanted[n] if n in fresh else np.asarray(loaded[n], np.float32) for n in wanted}
    _log.info("%s: %d tensors loaded, %d fresh.", path, len(values) - len(fresh), len(fresh))
    return {"params": unflatten_dict(values, sep="/")}


def _read(path: Path, model: SwinTransformer3D) -> Params:
    """The parameter tree at `path`, inflated to the model's patches and windows if it is 2D."""
    if path.is_dir():
        return load_for_inference(path)[0]
    state = canonical(_read_state_dict(path))
    if is_2d(state):
        state = inflate(state, model.patch_size, model.window_size)
    return from_state_dict(state)


def _read_state_dict(path: Path) -> Mapping[str, np.ndarray]:
    if not path.exists():
        raise InputError(f"There is no checkpoint at {path}: give an existing file or directory.")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise InputError(f"{path} is not a readable safetensors file: {error}.") from None
    if path.suffix == ".npz":
        try:
            return dict(np.load(path, allow_pickle=False))
        except ValueError as error:
            raise InputError(f"{path} is not a readable npz file: {error}.") from None
    raise InputError(
        f"{path} is neither .safetensors, .npz nor a checkpoint directory; convert a PyTorch file "
        f"where torch is installed, with: {_TO_SAFETENSORS}"
    )
