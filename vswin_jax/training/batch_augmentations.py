"""Mixup, CutMix and random erasing of a batch that is already on the device.

Mixing blends each clip with the previous one in the batch (the first with the last): a roll by one
moves a single clip between neighbouring devices. Every shape is static: boxes are masks.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

_ERASING_ATTEMPTS = 10


def mixup(
    key: PRNGKeyArray,
    clips: Float[Array, "B T H W C"],
    targets: Float[Array, "B K"],
    alpha: float,
    mask: Float[Array, " B"],
) -> tuple[Float[Array, "B T H W C"], Float[Array, "B K"]]:
    """Apply mixup (Zhang et al., 2018) with one lambda ~ Beta(alpha, alpha) for the batch.

    A clip whose partner is padding (mask 0) stays as it is.
    """
    height, width = clips.shape[2:4]
    return _blend(clips, targets, _mixup_weights(key, alpha, height, width), mask)


def cutmix(
    key: PRNGKeyArray,
    clips: Float[Array, "B T H W C"],
    targets: Float[Array, "B K"],
    alpha: float,
    mask: Float[Array, " B"],
) -> tuple[Float[Array, "B T H W C"], Float[Array, "B K"]]:
    """Apply CutMix (Yun et al., 2019) with one box for all frames and clips of the batch.

    The label weight is the area outside the box after the box is cut at the border. A clip whose
    partner is padding (mask 0) stays as it is.
    """
    height, width = clips.shape[2:4]
    return _blend(clips, targets, _cutmix_weights(key, alpha, height, width), mask)


def mix(
    key: PRNGKeyArray,
    clips: Float[Array, "B T H W C"],
    targets: Float[Array, "B K"],
    mask: Float[Array, " B"],
    *,
    mixup_alpha: float = 0.0,
    cutmix_alpha: float = 0.0,
) -> tuple[Float[Array, "B T H W C"], Float[Array, "B K"]]:
    """Apply mixup, CutMix, or one of the two at even odds; an alpha of 0 turns one off."""
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
    return 1.0 - _box_mask((height, width), (top, left), (box_height, box_width))


def _box_mask(
    size: tuple[int, int],
    corner: tuple[jax.Array, jax.Array],
    box_size: tuple[jax.Array, jax.Array],
) -> jax.Array:
    """Return float32 [..., height, width], 1 inside a box and 0 outside; box bounds are [...].

    Each pair is vertical first: (height, width), (top, left) and (box height, box width).
    """
    y, x = jnp.arange(size[0])[:, None], jnp.arange(size[1])
    top, left, box_height, box_width = (
        jnp.asarray(bound)[..., None, None] for bound in (*corner, *box_size)
    )
    rows = (y >= top) & (y < top + box_height)
    columns = (x >= left) & (x < left + box_width)
    return (rows & columns).astype(jnp.float32)


def _blend(
    clips: jax.Array, targets: jax.Array, weights: jax.Array, mask: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Blend each clip by `weights` [H, W] with its partner, and the targets by the mean weight."""
    partner_is_real = jnp.roll(mask, 1)[:, None, None] > 0
    own = jnp.where(partner_is_real, weights, 1.0)
    own_label = own.mean(axis=(1, 2))[:, None]
    own = own[:, None, :, :, None]
    mixed_clips = own * clips + (1.0 - own) * jnp.roll(clips, 1, axis=0)
    return mixed_clips, own_label * targets + (1.0 - own_label) * jnp.roll(targets, 1, axis=0)


def random_erasing(
    key: PRNGKeyArray,
    clips: Float[Array, "B T H W C"],
    probability: float = 0.25,
    *,
    scale: tuple[float, float] = (0.02, 1 / 3),
    ratio: tuple[float, float] = (0.3, 3.33),
) -> Float[Array, "B T H W C"]:
    """Set one box of a clip to 0, the same in all frames, with `probability` for each clip.

    Clips are normalised, so 0 is the mean colour. The share of the box in the frame is uniform in
    `scale` and its aspect ratio log-uniform in `ratio`; the first of ten draws that fits is taken,
    and if none fits nothing is erased, as in timm's `RandomErasing`, which the reference uses.
    """
    batch, _, height, width, _ = clips.shape
    gate_key, area_key, ratio_key, y_key, x_key = jax.random.split(key, 5)
    box_height, box_width, fits = _draw_box_sizes(
        area_key, ratio_key, batch=batch, size=(height, width), scale=scale, ratio=ratio
    )
    top = jnp.floor(jax.random.uniform(y_key, (batch,)) * (height - box_height + 1))
    left = jnp.floor(jax.random.uniform(x_key, (batch,)) * (width - box_width + 1))
    erased = fits & jax.random.bernoulli(gate_key, probability, (batch,))
    box = _box_mask((height, width), (top, left), (box_height, box_width))
    box = box * erased[:, None, None]
    return clips * (1.0 - box)[:, None, :, :, None].astype(clips.dtype)


def _draw_box_sizes(
    area_key: jax.Array,
    ratio_key: jax.Array,
    *,
    batch: int,
    size: tuple[int, int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Draw a box that fits into `size` for each clip: heights, widths and True if one fits, [B]."""
    height, width = size
    draws = (batch, _ERASING_ATTEMPTS)
    areas = height * width * jax.random.uniform(area_key, draws, minval=scale[0], maxval=scale[1])
    low, high = jnp.log(ratio[0]), jnp.log(ratio[1])
    ratios = jnp.exp(jax.random.uniform(ratio_key, draws, minval=low, maxval=high))
    heights, widths = jnp.round(jnp.sqrt(areas * ratios)), jnp.round(jnp.sqrt(areas / ratios))
    fits = (heights < height) & (widths < width)
    # argmax is the first draw that fits; without one it is the first draw, and `fits` is False.
    first = jnp.argmax(fits, axis=1, keepdims=True)
    box_height, box_width, any_fits = (
        jnp.take_along_axis(values, first, axis=1)[:, 0] for values in (heights, widths, fits)
    )
    return box_height, box_width, any_fits
