"""Random parameters of a model, without compiling its initialisation, which takes seconds."""

from typing import Any

import jax
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from vswin_jax.models import init_params


def random_params(model: nn.Module, seed: int = 0) -> dict[str, Any]:
    """Draw parameters with NumPy: normal, of the scale of an initialisation; no bias is zero."""
    rng = np.random.default_rng(seed)
    shapes = flatten_dict(jax.eval_shape(lambda: init_params(model, jax.random.key(0))))
    return unflatten_dict({path: _draw(path[-1], leaf, rng) for path, leaf in shapes.items()})


def _draw(name: str, leaf: jax.ShapeDtypeStruct, rng: np.random.Generator) -> np.ndarray:
    values = rng.normal(0, 0.02, leaf.shape)
    if name == "scale":
        values += 1
    elif name == "kernel":
        # As large as keeps the size of what it multiplies, so that every layer matters.
        values *= 1 / (0.02 * np.sqrt(np.prod(leaf.shape[:-1])))
    return values.astype(leaf.dtype)
