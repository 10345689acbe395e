"""Metrics that add up: sums and counts on the device, exact scores of a whole set on the host."""

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
        # A padded row may hold anything, and 0 * inf is not 0.
        "loss_sum": jnp.sum(jnp.where(mask > 0, losses, 0.0) * mask),
        "top1_correct": jnp.sum(correct * mask),
        "count": jnp.sum(mask),
    }


def means(sums: dict[str, float]) -> dict[str, float]:
    """`loss` and `top1` (a fraction) from fetched `batch_sums`; other entries stay as they are."""
    rest = {k: v for k, v in sums.items() if k not in ("loss_sum", "top1_correct", "count")}
    count = max(float(sums["count"]), 1.0)
    return {
        "loss": float(sums["loss_sum"]) / count,
        "top1": float(sums["top1_correct"]) / count,
        **{name: float(value) for name, value in rest.items()},
    }


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
