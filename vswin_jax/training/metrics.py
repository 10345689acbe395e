"""Metrics that add up: sums and counts on the device, exact scores of a whole set on the host."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np


def batch_sums(
    losses: jax.Array, logits: jax.Array, labels: jax.Array, mask: jax.Array
) -> dict[str, jax.Array]:
    """Sums over the real rows of a batch, so that batches and hosts can simply be added.

    Losses [B], logits [B, K], labels int [B], mask [B] -> float32 scalars `loss_sum`,
    `top1_correct` (against the hard label, also where labels were mixed) and `count`.
    """
    correct = (jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32)
    return {
        "loss_sum": _loss_sum(losses, mask),
        "top1_correct": jnp.sum(correct * mask),
        "count": jnp.sum(mask),
    }


def set_batch_sums(
    losses: jax.Array, logits: jax.Array, labels: jax.Array, mask: jax.Array
) -> dict[str, jax.Array]:
    """`batch_sums` where every video has a set of classes, labels float [B, K] of 0 and 1.

    `hit1_correct` counts the videos whose set has the class of the highest logit (Hit@1 of
    YouTube-8M, arXiv:1609.08675), `hit1_count` those that it can be true of: with any class.
    """
    best = jnp.argmax(logits, axis=-1)[:, None]
    hits = jnp.take_along_axis(labels, best, axis=-1)[:, 0]
    return {
        "loss_sum": _loss_sum(losses, mask),
        "hit1_correct": jnp.sum(hits * mask),
        "hit1_count": jnp.sum(labels.max(axis=-1) * mask),
        "count": jnp.sum(mask),
    }


def _loss_sum(losses: jax.Array, mask: jax.Array) -> jax.Array:
    # A padded row may hold anything, and 0 * inf is not 0.
    return jnp.sum(jnp.where(mask > 0, losses, 0.0) * mask)


# What `means` makes of which sum and which count.
_MEANS = {
    "loss": ("loss_sum", "count"),
    "top1": ("top1_correct", "count"),
    "hit1": ("hit1_correct", "hit1_count"),
}


def means(sums: dict[str, float]) -> dict[str, float]:
    """`loss`, `top1` and `hit1` (fractions) from fetched sums of a batch, where they are there.

    Other entries stay as they are.
    """
    fractions = {
        name: float(sums[total]) / max(float(sums[count]), 1.0)
        for name, (total, count) in _MEANS.items()
        if total in sums
    }
    used = set(itertools.chain.from_iterable(_MEANS.values()))
    return fractions | {name: float(value) for name, value in sums.items() if name not in used}


def top_k_accuracy(probabilities: np.ndarray, labels: np.ndarray, k: int) -> float:
    """The fraction of labels [N] among the `k` best of probabilities [N, K].

    Of equal probabilities the lower class comes first; NaN never counts as a hit.
    """
    if len(labels) == 0:
        return 0.0
    own = np.take_along_axis(probabilities, labels[:, None], axis=1)
    classes = np.arange(probabilities.shape[1])
    ahead = (probabilities > own) | ((probabilities == own) & (classes < labels[:, None]))
    return float(np.mean((ahead.sum(axis=1) < k) & np.isfinite(own[:, 0])))


def hit_at_1(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Of the videos with any class, the share whose most probable class is one of theirs.

    Probabilities [N, K], labels [N, K] of 0 and 1. Of equal probabilities the lower class counts;
    a video with NaN is no hit.
    """
    best = probabilities.argmax(axis=1)[:, None]
    hits = (np.take_along_axis(labels, best, axis=1) > 0) & np.isfinite(
        np.take_along_axis(probabilities, best, axis=1)
    )
    having = labels.any(axis=1)
    return float(hits[having].mean()) if having.any() else 0.0


def average_precisions(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Of each class how well its probability ranks the videos: [N, K], [N, K] -> float64 [K].

    NaN for a class that no video has.
    """
    return np.array(
        [average_precision(*columns) for columns in zip(probabilities.T, labels.T, strict=True)]
    )


def average_precision(scores: np.ndarray, labels: np.ndarray) -> float:
    """The precision at each score that finds more of the positives, weighted by how many more.

    Scores [N], labels [N] of 0 and 1; NaN without a positive. Nothing is interpolated and equal
    scores count as one cut, so neither their order nor anything else is left to chance: the value
    is that of scikit-learn's `average_precision_score`. A score of NaN finds nothing.
    """
    positives = np.count_nonzero(labels)
    if not positives:
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    found = np.cumsum((labels[order] > 0) & np.isfinite(scores[order]))
    ranked = scores[order]
    cuts = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)
    precision = found[cuts] / (cuts + 1)
    return float(np.sum(np.diff(found[cuts], prepend=0) * precision) / positives)


def mean_over_present(values: np.ndarray) -> float:
    """The mean of the values [K] that are not NaN; 0 where all are."""
    present = values[~np.isnan(values)]
    return float(present.mean()) if present.size else 0.0


def confusion_matrix(predicted: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts int64 [K, K]: row = true class, column = predicted class."""
    cells = np.asarray(labels, np.int64) * num_classes + np.asarray(predicted, np.int64)
    counts = np.bincount(cells, minlength=num_classes * num_classes)
    return counts.reshape(num_classes, num_classes)


def mean_class_accuracy(confusion: np.ndarray) -> float:
    """The mean of the accuracies of the classes that occur; `confusion` is [K, K], rows true."""
    totals = confusion.sum(axis=1)
    present = totals > 0
    if not present.any():
        return 0.0
    return float(np.mean(np.diag(confusion)[present] / totals[present]))
