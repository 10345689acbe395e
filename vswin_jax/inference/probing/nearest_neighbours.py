"""k-NN classification by cosine similarity, with the weights of DINO (arXiv:2104.14294)."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float32

from vswin_jax.inference.probing.probe_data import ProbeData

NEIGHBOURS = (1, 5, 10, 20, 50)
_TEMPERATURE = 0.07
# Rows whose similarities to all training videos are in memory at a time.
_CHUNK = 1024

Scores = Float32[np.ndarray, "N K"]


def neighbour_scores(
    train: ProbeData, vectors: Float32[np.ndarray, "N C"], counts: Sequence[int] = NEIGHBOURS
) -> Mapping[int, Scores]:
    """Return the class scores of each vector by its k nearest training videos, for each k.

    Each neighbour votes for its classes with exp(cosine similarity / 0.07). Counts above the number
    of training videos are left out, but for the smallest.
    """
    counts = [k for k in counts if k <= len(train)] or [len(train)]
    units, queries = _unit(train.vectors), _unit(vectors)
    parts = [
        _chunk_scores(queries[start : start + _CHUNK], units, train.targets, counts)
        for start in range(0, len(queries), _CHUNK)
    ]
    return {k: np.concatenate([part[k] for part in parts]) for k in counts}


def _chunk_scores(
    queries: np.ndarray, units: np.ndarray, targets: np.ndarray, counts: Sequence[int]
) -> dict[int, np.ndarray]:
    similarities = queries @ units.T
    most = max(counts)
    nearest = np.argpartition(-similarities, most - 1, axis=1)[:, :most]
    found = np.take_along_axis(similarities, nearest, axis=1)
    order = np.argsort(-found, axis=1, kind="stable")
    nearest = np.take_along_axis(nearest, order, axis=1)
    votes = np.exp((np.take_along_axis(found, order, axis=1) - 1) / _TEMPERATURE)
    return {k: np.einsum("nk,nkc->nc", votes[:, :k], targets[nearest[:, :k]]) for k in counts}


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
