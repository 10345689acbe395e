"""Classification metrics: sums and counts on the device, scores of a whole set on the host."""

import itertools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num


def batch_sums(
    losses: Float[Array, " B"],
    logits: Float[Array, "B K"],
    labels: Int[Array, " B"],
    mask: Float[Array, " B"],
) -> dict[str, Float[Array, ""]]:
    """Return sums over the real rows of a batch, which may be added over batches and hosts.

    They are `loss_sum`, `top1_correct` (against the hard label, also where labels were mixed) and
    `count`.
    """
    correct = (jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32)
    return {
        "loss_sum": _loss_sum(losses, mask),
        "top1_correct": jnp.sum(correct * mask),
        "count": jnp.sum(mask),
    }


def multi_label_batch_sums(
    losses: Float[Array, " B"],
    logits: Float[Array, "B K"],
    labels: Float[Array, "B K"],
    mask: Float[Array, " B"],
) -> dict[str, Float[Array, ""]]:
    """Return sums over the real rows of a multi-label batch; labels are 0 or 1.

    `hit1_correct` counts the videos that have the class of the highest logit (Hit@1 of YouTube-8M,
    arXiv:1609.08675), and `hit1_count` the videos that can be hits: those with any class.
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
    # The loss of a padded row may be infinite or NaN, and 0 * inf is not 0.
    return jnp.sum(jnp.where(mask > 0, losses, 0.0) * mask)


# Each mean with the sum and the count that it is computed from.
_MEANS = {
    "loss": ("loss_sum", "count"),
    "top1": ("top1_correct", "count"),
    "hit1": ("hit1_correct", "hit1_count"),
}


def means(sums: Mapping[str, jax.typing.ArrayLike]) -> dict[str, float]:
    """Divide the fetched sums of a batch by their counts, to `loss`, `top1` and `hit1` (fractions).

    Means without a sum are left out, and entries that are neither a sum nor a count are kept.
    """
    fractions = {
        name: float(sums[total]) / max(float(sums[count]), 1.0)
        for name, (total, count) in _MEANS.items()
        if total in sums
    }
    used = set(itertools.chain.from_iterable(_MEANS.values()))
    return fractions | {name: float(value) for name, value in sums.items() if name not in used}


def top_k_accuracy(
    probabilities: Float[np.ndarray, "N K"], labels: Int[np.ndarray, " N"], k: int
) -> float:
    """Return the fraction of labels that are among the `k` most probable classes.

    Among equal probabilities the lower class comes first; NaN is never correct.
    """
    if len(labels) == 0:
        return 0.0
    own = np.take_along_axis(probabilities, labels[:, None], axis=1)
    classes = np.arange(probabilities.shape[1])
    ahead = (probabilities > own) | ((probabilities == own) & (classes < labels[:, None]))
    return float(np.mean((ahead.sum(axis=1) < k) & np.isfinite(own[:, 0])))


def hit_at_1(probabilities: Float[np.ndarray, "N K"], labels: Float[np.ndarray, "N K"]) -> float:
    """Return the share of videos whose most probable class is one of theirs; labels are 0 or 1.

    Videos without a class do not count. Among equal probabilities the lower class is taken; a video
    with NaN is no hit.
    """
    best = probabilities.argmax(axis=1)[:, None]
    hits = (np.take_along_axis(labels, best, axis=1) > 0) & np.isfinite(
        np.take_along_axis(probabilities, best, axis=1)
    )
    has_class = labels.any(axis=1)
    return float(hits[has_class].mean()) if has_class.any() else 0.0


def average_precisions(
    probabilities: Float[np.ndarray, "N K"], labels: Float[np.ndarray, "N K"]
) -> Float[np.ndarray, " K"]:
    """Return the average precision of each class; NaN for a class that no video has."""
    columns = zip(probabilities.T, labels.T, strict=True)
    return np.array([average_precision(scores, positives) for scores, positives in columns])


def average_precision(scores: Float[np.ndarray, " N"], labels: Num[np.ndarray, " N"]) -> float:
    """Return the mean precision over recall, as scikit-learn's `average_precision_score` does.

    The precision at each score that adds positives is weighted by the share of positives that it
    adds. Nothing is interpolated, and equal scores count as one threshold, so the order of the
    videos does not matter. Labels are 0 or 1; without a positive the result is NaN. A score of NaN
    ranks last and adds no positive.
    """
    positives = np.count_nonzero(labels)
    if not positives:
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    found = np.cumsum((labels[order] > 0) & np.isfinite(scores[order]))
    ranked = scores[order]
    thresholds = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)
    precision = found[thresholds] / (thresholds + 1)
    return float(np.sum(np.diff(found[thresholds], prepend=0) * precision) / positives)


def mean_over_present(values: Float[np.ndarray, " K"]) -> float:
    """Return the mean of the values that are not NaN; 0 if all are."""
    present = values[~np.isnan(values)]
    return float(present.mean()) if present.size else 0.0


def confusion_matrix(
    predicted: Int[np.ndarray, " N"], labels: Int[np.ndarray, " N"], num_classes: int
) -> Int[np.ndarray, "K K"]:
    """Count the videos of each pair of classes: the row is the true class, the column predicted."""
    cells = np.asarray(labels, np.int64) * num_classes + np.asarray(predicted, np.int64)
    counts = np.bincount(cells, minlength=num_classes * num_classes)
    return counts.reshape(num_classes, num_classes)


def mean_class_accuracy(confusion: Int[np.ndarray, "K K"]) -> float:
    """Return the accuracy of each class that occurs (rows are true), averaged over the classes."""
    totals = confusion.sum(axis=1)
    present = totals > 0
    if not present.any():
        return 0.0
    return float(np.mean(np.diag(confusion)[present] / totals[present]))
