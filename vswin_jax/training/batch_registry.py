"""Registered augmentations of a batch on the device: `config.data.batch_augmentations`.

They come after random erasing and before mixup and CutMix, in the order of the list, and are part
of the compiled step. Each has a key of its own, a function of the seed, the step, its name and its
occurrence in the list, so the draws of the others do not change.
"""

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import jax
from jaxtyping import Array, Float, PRNGKeyArray

from vswin_jax.runtime.registry import Registry, build

KEY = "config.data.batch_augmentations"
# From (key, clips, targets, mask) to (clips, targets).
BatchFunction = Callable[..., tuple[jax.Array, jax.Array]]
Registered = TypeVar("Registered", bound=BatchFunction)
# Key data of each augmentation, and the function with its options.
BatchSteps = Sequence[tuple[int, BatchFunction]]
BATCH_AUGMENTATIONS: Registry[BatchFunction] = Registry("batch augmentation", KEY, of_function=4)


def register_batch_augmentation(name: str) -> Callable[[Registered], Registered]:
    """Register a batch augmentation under `name`: a decorator of a pure function of JAX arrays.

    It takes `(key, clips, targets, mask)` and then its options, and returns `(clips, targets)`:
    normalised pixels float32 `[B, T, H, W, 3]`, and soft targets float32 `[B, K]`. `mask` `[B]` is
    0 for padding.
    """

    def register(function: Registered) -> Registered:
        return BATCH_AUGMENTATIONS.add(name, function)

    return register


def build_batch_augmentations(entries: object) -> BatchSteps:
    """Build the augmentations that the config lists.

    Raises:
      InputError: a name that is not registered, or wrong options.
    """
    choices = BATCH_AUGMENTATIONS.parse(entries)
    names = [choice.name for choice in choices]
    return tuple(
        (
            _key_data(choice.name, names[:index].count(choice.name)),
            build(BATCH_AUGMENTATIONS, choice, lambda entry, options: partial(entry, **options)),
        )
        for index, choice in enumerate(choices)
    )


def _key_data(name: str, occurrence: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{name} {occurrence}".encode()).digest()[:4])


def augment_batch(
    steps: BatchSteps,
    key: PRNGKeyArray,
    clips: Float[Array, "B T H W 3"],
    targets: Float[Array, "B K"],
    mask: Float[Array, " B"],
) -> tuple[Float[Array, "B T H W 3"], Float[Array, "B K"]]:
    """Apply the augmentations in order; `key` is the batch's, from which others draw as well."""
    for data, function in steps:
        clips, targets = function(jax.random.fold_in(key, data), clips, targets, mask)
    return clips, targets
