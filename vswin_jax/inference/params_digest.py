"""A digest of parameters, by which a later start knows that files are of the same model."""

import hashlib

import jax
import numpy as np
from jaxtyping import PyTree


def params_digest(params: PyTree) -> str:
    """Return a digest of the names and the values of all parameters."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(params):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()
