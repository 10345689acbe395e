"""The training loss, and the augmentations that work on a batch already on the device.

Mixing blends each clip with the one before it in the batch (the first with the last): a roll by
one moves a single clip between neighbouring devices. Every shape is static: boxes are masks.
"""

import jax
import jax.numpy as jnp
import optax

_ERASING_ATTEMPTS = 10


def cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Cross entropy with soft `targets`: [B, K], [B, K] -> float32 [B]."""
    log_probabilities = jax.nn.log_softmax(logits.astype(jnp.float32))
    return -jnp.sum(targets * log_probabilities, axis=-1)


def binary_cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Each class a question of its own: logits [B, K], targets [B, K] -> float32 [B].

    The mean over the classes, so that the mean over a batch is that of
    `torch.nn.functional.binary_cross_entropy_with_logits`, which mmaction2's BCELossWithLogits and
    PySlowFast's "bce_logit" are.
    """
    losses = optax.sigmoid_binary_cross_entropy(logits.astype(jnp.float32), targets)
    return jnp.mean(losses, axis=-1)


def smooth_labels(labels: jax.Array, num_classes: int, smoothing: float = 0.0) -> jax.Array:
    """Labels int [B] -> targets float32 [B, K]: 1 - s + s/K on the label, s/K elsewhere."""
    return smooth_targets(jax.nn.one_hot(labels, num_classes), smoothing)


def smooth_targets(targets: jax.Array, smoothing: float) -> jax.Array:
    """Targets [B, K] of 0 and 1 -> (1 - s) * target + s/K, for one class and for sets alike.

    mmaction2 does so before either loss (`BaseHead.loss`).
    """
    return targets * (1.0 - smoothing) + smoothing / targets.shape[-1]


def mixup(
    key: jax.Array, clips: jax.Array, targets: jax.Array, alpha: float, mask: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Mixup (Zhang et al., 2018) with one lambda ~ Beta(alpha, alpha) for the batch.

    Clips float [B, T, H, W, 3], targets [B, K] and mask [B] -> mixed clips and targets. A clip
    whose partner is padding (mask 0) stays as it is.
    """
    return _blend(clips, targets, _mixup_weights(key, alpha, *clips.shape[2:4]), mask)


def cutmix(
    key: jax.Array, clips: jax.Array, targets: jax.Array, alpha: float, mask: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """CutMix (Yun et al., 2019): one box for all frames and clips of the batch.

    The label weight is the area that is really left, since the box is cut at the border. Shapes
    and padding as in `mixup`.
    """
    return _blend(clips, targets, _cutmix_weights(key, alpha, *clips.shape[2:4]), mask)


def mix(
    key: jax.Array,
    clips: jax.Array,
    targets: jax.Array,
    mask: jax.Array,
    *,
    mixup_alpha: float = 0.0,
    cutmix_alpha: float = 0.0,
) -> tuple[jax.Array, jax.Array]:
    """Mixup, CutMix, or one of the two at even odds for the batch; an alpha of 0 turns one off."""
    height, width = clips.shape[2:4]
    choice_key, mixup_key, cutmix_key = jax.random.split(key, 3)
    if mixup_alpha and cutmix_alpha:
        weights = jnp.where(
            jax.random.bernoulli(choice_key),
            _mixup_weights(mixup_key, mixup_alpha, height, width),
            _cutmix_weights(cutmix_key, cutmix_alpha, height, width),
        )
    elif mixup_alpha:
        weights = _mixup_weights(mixup_key, mixup_alpha, height, width)
    elif cutmix_alpha:
        weights = _cutmix_weights(cutmix_key, cutmix_alpha, height, width)
    else:
        return clips, targets
    return _blend(clips, targets, weights, mask)


def _mixup_weights(key: jax.Array, alpha: float, height: int, width: int) -> jax.Array:
    return jnp.full((height, width), jax.random.beta(key, alpha, alpha))


def _cutmix_weights(key: jax.Array, alpha: float, height: int, width: int) -> jax.Array:
    beta_key, y_key, x_key = jax.random.split(key, 3)
    side = jnp.sqrt(1.0 - jax.random.beta(beta_key, alpha, alpha))
    box_height, box_width = jnp.floor(side * height), jnp.floor(side * width)
    top = jax.random.randint(y_key, (), 0, height) - box_height // 2
    left = jax.random.randint(x_key, (), 0, width) - box_width // 2
    return 1.0 - _box(height, width, top, left, box_height, box_width)


def _box(
    height: int,
    width: int,
    top: jax.Array,
    left: jax.Array,
    box_height: jax.Array,
    box_width: jax.Array,
) -> jax.Array:
    """A box as float32 [..., height, width]: 1 inside, 0 outside; its bounds are [...]."""
    y, x = jnp.arange(height)[:, None], jnp.arange(width)
    top, left, box_height, box_width = (
        jnp.asarray(bound)[..., None, None] for bound in (top, left, box_height, box_width)
    )
    rows = (y >= top) & (y < top + box_height)
    columns = (x >= left) & (x < left + box_width)
    return (rows & columns).astype(jnp.float32)


def _blend(
    clips: jax.Array, targets: jax.Array, weights: jax.Array, mask: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """`weights` [H, W] of each clip itself, the rest of its partner; labels by the mean weight."""
    partner_is_real = jnp.roll(mask, 1)[:, None, None] > 0
    own = jnp.where(partner_is_real, weights, 1.0)
    own_label = own.mean(axis=(1, 2))[:, None]
    own = own[:, None, :, :, None]
    mixed_clips = own * clips + (1.0 - own) * jnp.roll(clips, 1, axis=0)
    return mixed_clips, own_label * targets + (1.0 - own_label) * jnp.roll(targets, 1, axis=0)


def random_erasing(
    key: jax.Array,
    clips: jax.Array,
    probability: float = 0.25,
    *,
    area: tuple[float, float] = (0.02, 1 / 3),
    aspect: tuple[float, float] = (0.3, 3.33),
) -> jax.Array:
    """Zero one box of a clip, the same in all frames, with `probability` for each clip.

    Clips float [B, T, H, W, 3], normalised, so that zero is the mean colour. The box has a uniform
    share of the `area` and a log-uniform `aspect`; of ten draws the first that fits is taken, and
    if none fits nothing is erased (timm's rule; reference facts, section 5.2).
    """
    batch, _, height, width, _ = clips.shape
    gate_key, area_key, aspect_key, y_key, x_key = jax.random.split(key, 5)
    draws = (batch, _ERASING_ATTEMPTS)
    areas = height * width * jax.random.uniform(area_key, draws, minval=area[0], maxval=area[1])
    low, high = jnp.log(aspect[0]), jnp.log(aspect[1])
    aspects = jnp.exp(jax.random.uniform(aspect_key, draws, minval=low, maxval=high))
    heights, widths = jnp.round(jnp.sqrt(areas * aspects)), jnp.round(jnp.sqrt(areas / aspects))
    fits = (heights < height) & (widths < width)
    first = jnp.argmax(fits, axis=1, keepdims=True)
    box_height, box_width, fits = (
        jnp.take_along_axis(values, first, axis=1)[:, 0] for values in (heights, widths, fits)
    )
    top = jnp.floor(jax.random.uniform(y_key, (batch,)) * (height - box_height + 1))
    left = jnp.floor(jax.random.uniform(x_key, (batch,)) * (width - box_width + 1))
    erased = fits & jax.random.bernoulli(gate_key, probability, (batch,))
    box = _box(height, width, top, left, box_height, box_width) * erased[:, None, None]
    return clips * (1.0 - box)[:, None, :, :, None].astype(clips.dtype)
