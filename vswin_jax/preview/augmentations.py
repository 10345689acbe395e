"""Each augmentation alone: one clip under every augmentation that a config can turn on.

The functions are those of training, at the strengths of the config. An augmentation that the config
has turned off is shown at the strength of the published recipes and labelled as off. Of registered
augmentations, those that the config lists are shown.
"""

from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from vswin_jax.data.clips import transforms
from vswin_jax.data.clips.clip_spec import ClipSpec
from vswin_jax.data.clips.frame_indices import train_indices
from vswin_jax.data.clips.rand_augment import MAX_MAGNITUDE, OPERATIONS, crop_sides
from vswin_jax.data.decoding.decode import open_video
from vswin_jax.data.example import Example
from vswin_jax.data.pipeline.sampler import example_rng, named_rng
from vswin_jax.data.sources.labels import classes_of, describe_label
from vswin_jax.reporting.contact_sheet import ShownClip
from vswin_jax.training.batch_augmentations import mix, random_erasing
from vswin_jax.training.step_inputs import preprocess, to_pixels

OFF = " (off in this config)"
# Strengths at which augmentations that are off are shown: the probability of `RandomErasing`, and
# the alpha of `MixupBlending` and `CutmixBlending`, in the reference.
ERASING, ALPHA = 0.25, 0.2
# Draws to choose the most even mixture from: with an alpha of 0.2 one of the two clips is hardly
# visible in most of them.
_MIXTURES = 64


def augmentation_clips(
    example: Example,
    partner: Example,
    *,
    config: ConfigDict,
    spec: ClipSpec,
    label_names: Sequence[str],
) -> list[ShownClip]:
    """Return a training clip of `example` as decoded, and under each augmentation alone.

    The clip is mixed with `partner` by the most even of 64 draws. All other augmentations are drawn
    once, as a function of the config's seed and the example. The random resized crop starts from
    whole frames, the other augmentations from their centre crop.

    Raises:
      InputError: one of the two videos cannot be read.
    """
    rng = example_rng(config.seed, 0, example.id)
    frames = _read(example, spec, rng)
    partner_rng = example_rng(config.seed, 0, partner.id)
    partner_clip = _centre_crop(_read(partner, spec, partner_rng), spec.size)
    clip = _centre_crop(frames, spec.size)
    names = [_parenthesise_set(video, label_names) for video in (example, partner)]
    # The crop must be drawn right after the frame indices, as in training, to be the same.
    cropped = _random_resized_crop(frames, spec, rng)
    return [
        ShownClip(frames, label="as decoded", name=f"short side {spec.resize}"),
        ShownClip(cropped, label="random resized crop", name=_crop_ranges(spec)),
        ShownClip(clip, label="centre crop", name="input of the augmentations below"),
        _flip(clip, spec),
        *_rand_augment(clip, spec, rng),
        *_registered(clip, spec, rng),
        *_on_device(np.stack([clip, partner_clip]), names, config),
    ]


def _parenthesise_set(example: Example, label_names: Sequence[str]) -> str:
    """Describe a label as a term of a sum: a set of several classes is put in parentheses."""
    label = describe_label(example.label, label_names)
    return f"({label})" if len(classes_of(example.label)) > 1 else label


def _read(example: Example, spec: ClipSpec, rng: np.random.Generator) -> np.ndarray:
    with open_video(example.video, example.name) as video:
        indices = train_indices(video, spec, rng)
        return video.decode(
            indices, lambda frame, _: transforms.resize_short_side(frame, spec.resize)
        )


def _centre_crop(frames: np.ndarray, size: int) -> np.ndarray:
    box = transforms.centre_box(*frames.shape[1:3], size)
    return np.ascontiguousarray(transforms.crop(frames, box))


def _random_resized_crop(
    frames: np.ndarray, spec: ClipSpec, rng: np.random.Generator
) -> np.ndarray:
    box = transforms.random_resized_crop_box(*frames.shape[1:3], spec.scale, spec.ratio, rng)
    cropped = transforms.crop(frames, box)
    return np.stack([transforms.resize(frame, spec.size, spec.size) for frame in cropped])


def _crop_ranges(spec: ClipSpec) -> str:
    (small, large), (narrow, wide) = spec.scale, spec.ratio
    return f"area {small:.2g} to {large:.2g}, aspect {narrow:.2f} to {wide:.2f}"


def _flip(clip: np.ndarray, spec: ClipSpec) -> ShownClip:
    flipped = to_pixels(preprocess(jnp.asarray(clip)[None], jnp.ones(1, bool)))[0]
    probability = f"probability {spec.flip:g}"
    if spec.rand_augment_n:
        probability += "; RandAugment's: 0.5"
    is_off = not (spec.flip or spec.rand_augment_n)
    return ShownClip(np.asarray(flipped), label="horizontal flip" + OFF * is_off, name=probability)


def _rand_augment(
    clip: np.ndarray, spec: ClipSpec, rng: np.random.Generator
) -> Iterator[ShownClip]:
    """Yield the cropped sides, which RandAugment always applies first, and each operation."""
    n, m = spec.rand_augment_n, spec.rand_augment_m
    off = OFF * (not n)
    sides = f"RandAugment, 0 to {m}/224 a side"
    yield ShownClip(crop_sides(clip, m, rng), label="cropped sides" + off, name=sides)
    strength = f"RandAugment, magnitude {m} of {MAX_MAGNITUDE}"
    for name, operation in OPERATIONS.items():
        label = name.replace("_", " ") + off
        yield ShownClip(operation(clip, m, rng), label=label, name=strength)


def _registered(clip: np.ndarray, spec: ClipSpec, rng: np.random.Generator) -> Iterator[ShownClip]:
    """Yield each augmentation of the config's list, whatever its probability is."""
    for step in spec.augmentations:
        frames, _ = step.apply(clip.copy(), named_rng(rng, step.name, step.occurrence))
        label = step.name.replace("_", " ")
        yield ShownClip(frames, label=label, name=step.describe_options())


def _on_device(clips: np.ndarray, names: Sequence[str], config: ConfigDict) -> Iterator[ShownClip]:
    """Yield erasing, mixup and CutMix of the first of two clips uint8 [2, T, H, W, 3]."""
    loss = config.loss
    erase_key, mixup_key, cutmix_key = jax.random.split(jax.random.key(config.seed), 3)
    inputs = preprocess(jnp.asarray(clips), jnp.zeros(2, bool))
    yield ShownClip(
        np.asarray(to_pixels(random_erasing(erase_key, inputs[:1], probability=1.0)[0])),
        label="random erasing" + OFF * (not loss.random_erasing),
        name=f"probability {loss.random_erasing or ERASING:g}",
    )
    for label, field, key in (
        ("mixup", "mixup_alpha", mixup_key),
        ("CutMix", "cutmix_alpha", cutmix_key),
    ):
        alpha = loss[field] or ALPHA
        mixed, own = _most_even_mixture(key, inputs, {field: alpha})
        shares = f"{own:.2f} {names[0]} + {1 - own:.2f} {names[1]}"
        off = OFF * (not loss[field])
        yield ShownClip(mixed, label=f"{label}{off}: {shares}", name=f"alpha {alpha:g}")


def _most_even_mixture(
    key: jax.Array, clips: jax.Array, alphas: dict[str, float]
) -> tuple[np.ndarray, float]:
    """Mix the first of two normalised clips with the second; return uint8 pixels and its share."""
    keys, own, mask = jax.random.split(key, _MIXTURES), jnp.eye(2), jnp.ones(2)
    # The draws depend on the height and width alone, so one frame and channel are enough to search.
    blank = jnp.zeros_like(clips[:, :1, :, :, :1])
    shares = jax.vmap(lambda key: mix(key, blank, own, mask, **alphas)[1][0, 0])(keys)
    best = jnp.argmin(jnp.abs(shares - 0.5))
    mixed, _ = mix(keys[best], clips, own, mask, **alphas)
    return np.asarray(to_pixels(mixed[0])), float(shares[best])
