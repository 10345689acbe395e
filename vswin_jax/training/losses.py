"""Training losses and label smoothing; B clips, K classes."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int


def cross_entropy(logits: Float[Array, "B K"], targets: Float[Array, "B K"]) -> Float[Array, " B"]:
    """Return the softmax cross entropy with soft targets, in float32."""
    return optax.softmax_cross_entropy(logits.astype(jnp.float32), targets)


def binary_cross_entropy(
    logits: Float[Array, "B K"], targets: Float[Array, "B K"]
) -> Float[Array, " B"]:
    """Return the sigmoid cross entropy of each clip, averaged over the classes, in float32.

    Its mean over a batch is `torch.nn.functional.binary_cross_entropy_with_logits`, the loss behind
    mmaction2's BCELossWithLogits and PySlowFast's "bce_logit".
    """
    losses = optax.sigmoid_binary_cross_entropy(logits.astype(jnp.float32), targets)
    return jnp.mean(losses, axis=-1)


def smooth_labels(
    labels: Int[Array, " B"], num_classes: int, smoothing: float = 0.0
) -> Float[Array, "B K"]:
    """Convert labels to targets: 1 - s + s/K for the label's class and s/K for the others."""
    return smooth_targets(jax.nn.one_hot(labels, num_classes), smoothing)


def smooth_targets(targets: Float[Array, "B K"], smoothing: float) -> Float[Array, "B K"]:
    """Return (1 - s) * target + s/K of targets that are 0 or 1.

    mmaction2 smooths single labels and sets of labels alike, before either loss (`BaseHead.loss`).
    """
    return optax.smooth_labels(targets, smoothing)
