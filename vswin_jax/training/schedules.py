"""Learning-rate schedules, and durations in epochs, steps or examples.

A schedule maps a step to a multiplier of the base learning rate, so one schedule serves every
parameter group.
"""

import math
import re
from collections.abc import Callable

import jax
import jax.numpy as jnp

from vswin_jax.errors import InputError, unknown_name

Schedule = Callable[[jax.typing.ArrayLike], jax.Array]

_DURATION = re.compile(r"([-+]?[\d._]+(?:e[-+]?\d+)?)\s*(epoch|step|example)s?", re.IGNORECASE)


def make_schedule(
    name: str,
    *,
    total_steps: float,
    steps_per_epoch: float,
    warmup_steps: float,
    warmup_ratio: float = 0.1,
) -> Schedule:
    """Build the schedule `name`: step -> multiplier in [0, 1], float32, traceable by `jax.jit`.

    `epoch_cosine` is the schedule of the published results: a cosine that is constant within an
    epoch, times a warm-up that rises every step (mmcv's `CosineAnnealingLrUpdaterHook`). `cosine`
    rises linearly from `warmup_ratio` to 1 and then falls every step to 0 at `total_steps`. Lengths
    are in optimizer steps and may be fractional.

    Raises:
      InputError: an unknown name, or a length that is not above 0.
    """
    lengths = {"total_steps": total_steps, "steps_per_epoch": steps_per_epoch}
    for argument, length in lengths.items():
        if not length > 0:
            raise InputError(
                f"A schedule needs {argument} above 0, got {length}: train for longer.",
                [argument],
            )
    if name == "epoch_cosine":
        return _epoch_cosine(total_steps, steps_per_epoch, warmup_steps, warmup_ratio)
    if name == "cosine":
        return _smooth_cosine(total_steps, warmup_steps, warmup_ratio)
    raise unknown_name("schedule", name, ["epoch_cosine", "cosine"], "schedule")


def _epoch_cosine(total: float, per_epoch: float, warmup: float, ratio: float) -> Schedule:
    def schedule(step: jax.typing.ArrayLike) -> jax.Array:
        epoch = jnp.floor(jnp.asarray(step, jnp.float32) / per_epoch)
        return _half_cosine(epoch * per_epoch / total) * _warmup(step, warmup, ratio)

    return schedule


def _smooth_cosine(total: float, warmup: float, ratio: float) -> Schedule:
    def schedule(step: jax.typing.ArrayLike) -> jax.Array:
        after_warmup = jnp.asarray(step, jnp.float32) - warmup
        # A warm-up may be longer than the training; the decay then has no steps to divide by.
        decay = _half_cosine(after_warmup / max(total - warmup, 1.0))
        return decay * _warmup(step, warmup, ratio)

    return schedule


def _half_cosine(progress: jax.Array) -> jax.Array:
    return 0.5 * (1.0 + jnp.cos(math.pi * jnp.clip(progress, 0.0, 1.0)))


def _warmup(step: jax.typing.ArrayLike, warmup: float, ratio: float) -> jax.Array:
    """Return `1 - (1 - ratio) (1 - step / warmup)` during the warm-up, and 1 from its end."""
    if not warmup:
        return jnp.float32(1.0)
    done = jnp.asarray(step, jnp.float32) / warmup
    return 1.0 - (1.0 - ratio) * (1.0 - jnp.minimum(done, 1.0))


def parse_duration(text: str, *, batch_size: int, num_examples: int) -> float:
    """Convert a duration such as "30 epochs", "1000 steps" or "64000 examples" to optimizer steps.

    The result may be fractional: an epoch is `num_examples / batch_size` steps, because the stream
    of examples continues into the next epoch without dropping any.

    Raises:
      InputError: no number, no unit, an unknown unit, or a number below 0.
    """
    match = _DURATION.fullmatch(str(text).strip())
    try:
        amount = float(match[1]) if match else math.nan
    except ValueError:
        amount = math.nan
    if not 0 <= amount < math.inf:
        raise InputError(
            f"A duration is a number and a unit, such as '30 epochs', '1000 steps' or "
            f"'64000 examples', got {text!r}: write it that way.",
            ["A duration"],
        )
    examples = {"epoch": num_examples, "step": batch_size, "example": 1}[match[2].lower()]
    return amount * examples / batch_size
