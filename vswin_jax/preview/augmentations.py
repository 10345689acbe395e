"""Every augmentation alone, for people to look at: one clip under each that a config can have.

The functions are those of training, at the config's strengths. What a config has off is shown all
the same, at the strength that the published recipes give it, and is called off.
"""

from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from vswin_jax.data.clips import transforms
from vswin_jax.data.clips.clips import ClipSpec, train_indices
from vswin_jax.data.clips.rand_augment import MAX_MAGNITUDE, OPERATIONS, crop_sides
from vswin_jax.data.decoding.decode import open_video
from vswin_jax.data.example import Example
from vswin_jax.data.pipeline.sampler import example_rng
from vswin_jax.data.sources.labels import classes_of, describe_label
from vswin_jax.reporting.contact_sheet import ShownClip
from vswin_jax.training.losses import mix, random_erasing
from vswin_jax.training.steps import preprocess, to_pixels

OFF = " (off in this config)"
# Of what a config has off: the reference's own (reference facts, section 5.2).
ERASING, ALPHA = 0.25, 0.2
# An alpha of 0.2 leaves little of one of the two clips more often than not.
_MIXTURES = 64


def augmentation_clips(
    example: Example,
    partner: Example,
    *,
    config: ConfigDict,
    spec: ClipSpec,
    label_names: Sequence[str],
) -> list[ShownClip]:
    """A training clip of `example` as decoded, and under each augmentation alone.

    `partner` is what it is mixed with: of 64 draws the one that mixes them most evenly. All else
    is drawn once, as a function of the config's seed and the example. Only the random resized crop
    starts from whole frames, the others from their middle.

    Raises:
        InputError: one of the two videos cannot be read.
    """
    rng = example_rng(config.seed, 0, example.id)
    frames = _read(example, spec, rng)
    other = _middle(_read(partner, spec, example_rng(config.seed, 0, partner.id)), spec.size)
    clip = _middle(frames, spec.size)
    names = [_in_a_sum(video, label_names) for video in (example, partner)]
    return [
        ShownClip(frames, "as decoded", f"short side {spec.resize}"),
        ShownClip(_random_resized_crop(frames, spec, rng), "random resized crop", _ranges(spec)),
        ShownClip(clip, "the middle", "what the rest start from"),
        _flip(clip, spec),
        *_rand_augment(clip, spec, rng),
        *_on_device(np.stack([clip, other]), names, config),
    ]


def _in_a_sum(example: Example, label_names: Sequence[str]) -> str:
    said = describe_label(example.label, label_names)
    return f"({said})" if len(classes_of(example.label)) > 1 else said


def _read(example: Example, spec: ClipSpec, rng: np.random.Generator) -> np.ndarray:
    with open_video(example.video, example.name) as video:
        indices = train_indices(video, spec, rng)
        return video.decode(
            indices, lambda frame, _: transforms.resize_short_side(frame, spec.resize)
        )


def _middle(frames: np.ndarray, size: int) -> np.ndarray:
    box = transforms.centre_box(*frames.shape[1:3], size)
    return np.ascontiguousarray(transforms.crop(frames, box))


def _random_resized_crop(
    frames: np.ndarray, spec: ClipSpec, rng: np.random.Generator
) -> np.ndarray:
    box = transforms.random_resized_crop_box(*frames.shape[1:3], spec.area, spec.aspect, rng)
    cropped = transforms.crop(frames, box)
    return np.stack([transforms.resize(frame, spec.size, spec.size) for frame in cropped])


def _ranges(spec: ClipSpec) -> str:
    (small, large), (narrow, wide) = spec.area, spec.aspect
    return f"area {small:.2g} to {large:.2g}, aspect {narrow:.2f} to {wide:.2f}"


def _flip(clip: np.ndarray, spec: ClipSpec) -> ShownClip:
    flipped = to_pixels(preprocess(jnp.asarray(clip)[None], jnp.ones(1, bool)))[0]
    own = f"probability {spec.flip:g}"
    if spec.rand_augment_n:
        own += "; RandAugment's: 0.5"
    is_off = not (spec.flip or spec.rand_augment_n)
    return ShownClip(np.asarray(flipped), "horizontal flip" + OFF * is_off, own)


def _rand_augment(
    clip: np.ndarray, spec: ClipSpec, rng: np.random.Generator
) -> Iterator[ShownClip]:
    """The cropped sides that always come first, and each of the 18 operations."""
    n, m = spec.rand_augment_n, spec.rand_augment_m
    off = OFF * (not n)
    sides = f"RandAugment, 0 to {m}/224 a side"
    yield ShownClip(crop_sides(clip, m, rng), "cropped sides" + off, sides)
    strength = f"RandAugment, magnitude {m} of {MAX_MAGNITUDE}"
    for name, operation in OPERATIONS.items():
        label = name.replace("_", " ") + off
        yield ShownClip(operation(clip, m, rng), label, strength)


def _on_device(clips: np.ndarray, names: Sequence[str], config: ConfigDict) -> Iterator[ShownClip]:
    """Erasing, mixup and CutMix of the first of two clips uint8 [2, T, H, W, 3]."""
    loss = config.loss
    erase_key, mixup_key, cutmix_key = jax.random.split(jax.random.key(config.seed), 3)
    inputs = preprocess(jnp.asarray(clips), jnp.zeros(2, bool))
    yield ShownClip(
        np.asarray(to_pixels(random_erasing(erase_key, inputs[:1], 1.0)[0])),
        "random erasing" + OFF * (not loss.erasing),
        f"probability {loss.erasing or ERASING:g}",
    )
    for label, field, key in (
        ("mixup", "mixup_alpha", mixup_key),
        ("CutMix", "cutmix_alpha", cutmix_key),
    ):
        alpha = loss[field] or ALPHA
        mixed, own = _most_even_mixture(key, inputs, {field: alpha})
        shares = f"{own:.2f} {names[0]} + {1 - own:.2f} {names[1]}"
        off = OFF * (not loss[field])
        yield ShownClip(mixed, f"{label}{off}: {shares}", f"alpha {alpha:g}")


def _most_even_mixture(
    key: jax.Array, clips: jax.Array, alphas: dict[str, float]
) -> tuple[np.ndarray, float]:
    """The first of two normalised clips mixed with the second, uint8 [T, H, W, 3]; its share."""
    keys, own, mask = jax.random.split(key, _MIXTURES), jnp.eye(2), jnp.ones(2)
    # The draws depend on the size of a clip alone.
    blank = jnp.zeros_like(clips[:, :1, :, :, :1])
    shares = jax.vmap(lambda key: mix(key, blank, own, mask, **alphas)[1][0, 0])(keys)
    best = jnp.argmin(jnp.abs(shares - 0.5))
    mixed, _ = mix(keys[best], clips, own, mask, **alphas)
    return np.asarray(to_pixels(mixed[0])), float(shares[best])
