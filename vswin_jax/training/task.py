"""Single-label and multi-label classification.

Training, evaluation and `predict` share their code; a `Task` holds the parts that differ.
"""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from vswin_jax.errors import InputError
from vswin_jax.training.losses import (
    binary_cross_entropy,
    cross_entropy,
    smooth_labels,
    smooth_targets,
)
from vswin_jax.training.metrics import batch_sums, multi_label_batch_sums


@runtime_checkable
class Task(Protocol):
    """Loss, targets and metrics of a kind of labels; B videos, V views, K classes.

    Attributes:
      score: key of the evaluation metric by which checkpoints are compared.
      metric_titles: keys of the metrics whose curves are drawn, with their titles.
    """

    score: str
    metric_titles: Mapping[str, str]

    def blank_labels(self, rows: int, num_classes: int) -> Num[np.ndarray, "B ..."]:
        """Return placeholder labels for `rows` videos."""

    def targets(
        self, labels: Num[Array, "B ..."], num_classes: int, smoothing: float
    ) -> Float[Array, "B K"]:
        """Convert the labels of a batch to soft targets.

        Raises:
          InputError: the labels are not of the task's shape.
        """

    def losses(
        self, logits: Float[Array, "B K"], targets: Float[Array, "B K"]
    ) -> Float[Array, " B"]:
        """Return the loss of each video, in float32."""

    def sums(
        self,
        losses: Float[Array, " B"],
        logits: Float[Array, "B K"],
        labels: Num[Array, "B ..."],
        mask: Float[Array, " B"],
    ) -> dict[str, Float[Array, ""]]:
        """Return sums and counts over the real rows, which `metrics.means` divides."""

    def view_scores(self, logits: Float[Array, "*batch K"]) -> Float[Array, "*batch K"]:
        """Convert the logits of single views to the scores that `average_views` takes."""

    def average_views(
        self, scores: Float[Array, "B V K"], labels: Num[Array, "B ..."]
    ) -> dict[str, Float[Array, "B ..."]]:
        """Return the mean "probabilities" [B, K] over views and their "loss" [B], both float32.

        Raises:
          InputError: the labels are not of the task's shape.
        """


class SingleLabel:
    """One class a video: softmax and cross entropy; labels are int32 [B].

    Probabilities are the mean over the views of each view's softmax, as in the reference
    (`average_clip` in `mmaction/models/recognizers/base.py`), and the loss is the cross entropy of
    that mean.
    """

    score = "top1"
    metric_titles: Mapping[str, str] = {"top1": "top-1"}

    def blank_labels(self, rows: int, num_classes: int) -> Num[np.ndarray, " B"]:
        """Return zeros int32 [B]."""
        return np.zeros(rows, np.int32)

    def targets(
        self, labels: Num[Array, "B ..."], num_classes: int, smoothing: float
    ) -> Float[Array, "B K"]:
        """Convert the labels of a batch to soft targets; see `smooth_labels`."""
        _check_shape(labels, (len(labels),))
        return smooth_labels(labels, num_classes, smoothing)

    def losses(
        self, logits: Float[Array, "B K"], targets: Float[Array, "B K"]
    ) -> Float[Array, " B"]:
        """Return the cross entropy of each video."""
        return cross_entropy(logits, targets)

    def sums(
        self,
        losses: Float[Array, " B"],
        logits: Float[Array, "B K"],
        labels: Num[Array, " B"],
        mask: Float[Array, " B"],
    ) -> dict[str, Float[Array, ""]]:
        """Return sums and counts over the real rows; see `batch_sums`."""
        return batch_sums(losses, logits, labels, mask)

    def view_scores(self, logits: Float[Array, "*batch K"]) -> Float[Array, "*batch K"]:
        """Return the logarithms of the probabilities."""
        return jax.nn.log_softmax(logits)

    def average_views(
        self, scores: Float[Array, "B V K"], labels: Num[Array, "B ..."]
    ) -> dict[str, Float[Array, "B ..."]]:
        """Return the mean probabilities and their loss, from logarithms of probabilities."""
        _check_shape(labels, scores.shape[:1])
        log_mean = _log_mean(scores)
        own = jnp.take_along_axis(log_mean, labels[:, None], axis=1, mode="clip")
        return {"probabilities": jnp.mean(jnp.exp(scores), axis=1), "loss": -own[:, 0]}


class MultiLabel:
    """A set of classes a video: sigmoid and binary cross entropy; labels are float32 [B, K].

    Probabilities are the mean over the views of each view's sigmoid, the loss is the binary cross
    entropy of that mean, averaged over the classes. mmaction2 averages scores this way, and so does
    PySlowFast by default (DATA.ENSEMBLE_METHOD "sum"); its Charades recipes take the maximum.
    """

    score = "mAP"
    metric_titles: Mapping[str, str] = {"mAP": "mAP", "hit1": "hit@1"}

    def blank_labels(self, rows: int, num_classes: int) -> Num[np.ndarray, "B K"]:
        """Return zeros float32 [B, K]."""
        return np.zeros((rows, num_classes), np.float32)

    def targets(
        self, labels: Num[Array, "B ..."], num_classes: int, smoothing: float
    ) -> Float[Array, "B K"]:
        """Convert the labels of a batch to soft targets; see `smooth_targets`."""
        _check_shape(labels, (len(labels), num_classes))
        return smooth_targets(labels, smoothing)

    def losses(
        self, logits: Float[Array, "B K"], targets: Float[Array, "B K"]
    ) -> Float[Array, " B"]:
        """Return the binary cross entropy of each video, averaged over the classes."""
        return binary_cross_entropy(logits, targets)

    def sums(
        self,
        losses: Float[Array, " B"],
        logits: Float[Array, "B K"],
        labels: Num[Array, "B K"],
        mask: Float[Array, " B"],
    ) -> dict[str, Float[Array, ""]]:
        """Return sums and counts over the real rows; see `multi_label_batch_sums`."""
        return multi_label_batch_sums(losses, logits, labels, mask)

    def view_scores(self, logits: Float[Array, "*batch K"]) -> Float[Array, "*batch K"]:
        """Return the logits unchanged."""
        return logits

    def average_views(
        self, scores: Float[Array, "B V K"], labels: Num[Array, "B ..."]
    ) -> dict[str, Float[Array, "B ..."]]:
        """Return the mean probabilities and their loss, from logits."""
        _check_shape(labels, (len(scores), scores.shape[-1]))
        # Logarithms of both probabilities: 1 - p is exactly 0 in float32 for a confident view.
        present, absent = (_log_mean(jax.nn.log_sigmoid(sign * scores)) for sign in (1.0, -1.0))
        losses = -(labels * present + (1.0 - labels) * absent)
        return {"probabilities": jnp.exp(present), "loss": losses.mean(axis=-1)}


SINGLE_LABEL = SingleLabel()
MULTI_LABEL = MultiLabel()


def task_from_config(config: Any) -> Task:
    """Return the task of a config, which may be the plain dictionary stored in a checkpoint."""
    # Checkpoints from before `data.multi_label` existed are all of single labels.
    return MULTI_LABEL if config["data"].get("multi_label", False) else SINGLE_LABEL


def _log_mean(log_values: jax.Array) -> jax.Array:
    """Return the logarithm of the mean over the views, [B, V, K] -> [B, K]."""
    return jax.nn.logsumexp(log_values, axis=1) - jnp.log(jnp.float32(log_values.shape[1]))


def _check_shape(labels: jax.Array, expected: tuple[int, ...]) -> None:
    if labels.shape != expected:
        raise InputError(
            f"Expected labels of shape {expected} in a batch but got {labels.shape}: single labels "
            "are [videos] and multi-label data is [videos, classes of the model]; set "
            "config.data.multi_label to match the data."
        )
