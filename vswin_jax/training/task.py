"""What is asked of a model: the class of a video, or the set of its classes.

Training, evaluation and `predict` are the same for both tasks; what differs they ask the task.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from vswin_jax.errors import InputError
from vswin_jax.training.losses import (
    binary_cross_entropy,
    cross_entropy,
    smooth_labels,
    smooth_targets,
)
from vswin_jax.training.metrics import batch_sums, set_batch_sums


class Task(Protocol):
    """What the steps and the reports need to know; B videos, V views, K classes.

    score: the number by which one evaluation is better than another, as evaluations name it.
    measures: all such numbers that have a curve, with the names that people read.
    """

    score: str
    measures: Mapping[str, str]

    def blank_labels(self, rows: int, num_classes: int) -> np.ndarray:
        """Labels for a batch of `rows` videos of which nothing is known."""

    def targets(self, labels: jax.Array, num_classes: int, smoothing: float) -> jax.Array:
        """A batch's labels -> what the model should say, float32 [B, K]."""

    def losses(self, logits: jax.Array, targets: jax.Array) -> jax.Array:
        """Logits [B, K], targets [B, K] -> float32 [B]."""

    def sums(
        self, losses: jax.Array, logits: jax.Array, labels: jax.Array, mask: jax.Array
    ) -> dict[str, jax.Array]:
        """The training metrics of the real rows, as sums and counts; `metrics.means` divides."""

    def view_scores(self, logits: jax.Array) -> jax.Array:
        """Logits of single views float32 [..., K] -> what `average_views` takes."""

    def average_views(self, scores: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
        """Scores [B, V, K] -> probabilities float32 [B, K] and loss float32 [B]."""


class SingleLabel:
    """One class a video: softmax and cross entropy; labels are int32 [B].

    Probabilities are the mean over the views of each view's softmax (reference facts, section
    5.3), the loss is the cross entropy of that mean.
    """

    score = "top1"
    measures: Mapping[str, str] = {"top1": "top-1"}

    def blank_labels(self, rows: int, num_classes: int) -> np.ndarray:
        """Zeros int32 [B]."""
        return np.zeros(rows, np.int32)

    def targets(self, labels: jax.Array, num_classes: int, smoothing: float) -> jax.Array:
        """See `smooth_labels`."""
        _check_shape(labels, (len(labels),))
        return smooth_labels(labels, num_classes, smoothing)

    def losses(self, logits: jax.Array, targets: jax.Array) -> jax.Array:
        """See `cross_entropy`."""
        return cross_entropy(logits, targets)

    def sums(
        self, losses: jax.Array, logits: jax.Array, labels: jax.Array, mask: jax.Array
    ) -> dict[str, jax.Array]:
        """See `batch_sums`."""
        return batch_sums(losses, logits, labels, mask)

    def view_scores(self, logits: jax.Array) -> jax.Array:
        """The logarithms of the probabilities."""
        return jax.nn.log_softmax(logits)

    def average_views(self, scores: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
        """Logarithms of probabilities [B, V, K], labels [B] -> probabilities and loss."""
        _check_shape(labels, scores.shape[:1])
        log_mean = _log_mean(scores)
        own = jnp.take_along_axis(log_mean, labels[:, None], axis=1, mode="clip")
        return {"probabilities": jnp.mean(jnp.exp(scores), axis=1), "loss": -own[:, 0]}


class MultiLabel:
    """A set of classes a video: sigmoid and binary cross entropy; labels are float32 [B, K].

    Probabilities are the mean over the views of each view's sigmoid, the loss is the binary cross
    entropy of that mean, averaged over the classes. So mmaction2 averages scores, and PySlowFast
    by default (DATA.ENSEMBLE_METHOD "sum"); its Charades recipes take the maximum instead.
    """

    score = "mAP"
    measures: Mapping[str, str] = {"mAP": "mAP", "hit1": "hit@1"}

    def blank_labels(self, rows: int, num_classes: int) -> np.ndarray:
        """Zeros float32 [B, K]."""
        return np.zeros((rows, num_classes), np.float32)

    def targets(self, labels: jax.Array, num_classes: int, smoothing: float) -> jax.Array:
        """1 - s + s/K for the classes of a set and s/K for the others."""
        _check_shape(labels, (len(labels), num_classes))
        return smooth_targets(labels, smoothing)

    def losses(self, logits: jax.Array, targets: jax.Array) -> jax.Array:
        """See `binary_cross_entropy`."""
        return binary_cross_entropy(logits, targets)

    def sums(
        self, losses: jax.Array, logits: jax.Array, labels: jax.Array, mask: jax.Array
    ) -> dict[str, jax.Array]:
        """See `set_batch_sums`."""
        return set_batch_sums(losses, logits, labels, mask)

    def view_scores(self, logits: jax.Array) -> jax.Array:
        """The logits themselves."""
        return logits

    def average_views(self, scores: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
        """Logits [B, V, K], labels [B, K] -> probabilities and loss."""
        _check_shape(labels, (len(scores), scores.shape[-1]))
        present, absent = (_log_mean(jax.nn.log_sigmoid(sign * scores)) for sign in (1.0, -1.0))
        losses = -(labels * present + (1.0 - labels) * absent)
        return {"probabilities": jnp.exp(present), "loss": losses.mean(axis=-1)}


SINGLE_LABEL = SingleLabel()
MULTI_LABEL = MultiLabel()


def task_of(config: Mapping[str, Any]) -> Task:
    """The task of a config, or of the plain dictionary that a checkpoint keeps of one."""
    # Checkpoints older than the field are of single labels.
    return MULTI_LABEL if config["data"].get("multi_label", False) else SINGLE_LABEL


def _log_mean(log_values: jax.Array) -> jax.Array:
    """The logarithm of the mean over the views: [B, V, K] -> [B, K]."""
    return jax.nn.logsumexp(log_values, axis=1) - jnp.log(jnp.float32(log_values.shape[1]))


def _check_shape(labels: jax.Array, expected: tuple[int, ...]) -> None:
    if labels.shape != expected:
        raise InputError(
            f"Expected labels of shape {expected} in a batch but {labels.shape} came: they are "
            "[videos] for one class a video and [videos, classes of the model] for sets of classes "
            "(config.data.multi_label)."
        )
