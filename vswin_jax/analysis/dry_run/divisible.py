"""Batch and accumulation that divide over a mesh, where those of a config do not."""

import math
from collections.abc import Sequence

from ml_collections import ConfigDict


def make_divisible(config: ConfigDict, shards: int) -> tuple[ConfigDict, tuple[str, ...]]:
    """Choose the nearest batch and accumulation that divide over the batch shards of a mesh.

    Training refuses the others, but a plan is of more use than a refusal.

    Returns:
      The config, a copy where something is changed, and a sentence for each change with its flag.
    """
    batch = _nearest_batch(config, shards)
    accumulation = _nearest_accumulation(config.train.grad_accum_steps, batch // shards)
    chosen = {"batch_size": batch, "grad_accum_steps": accumulation}
    changes = {name: value for name, value in chosen.items() if config.train[name] != value}
    reasons = {
        "batch_size": f"does not divide over {shards} shards of the batch; another batch may need "
        f"another optim.learning_rate",
        "grad_accum_steps": f"does not divide the {batch // shards} clips of a device",
    }
    sentences = tuple(
        f"--config.train.{name}={value}, since {config.train[name]} {reasons[name]}"
        for name, value in changes.items()
    )
    if changes:
        config = config.copy_and_resolve_references()
        config.train.update(changes)
    return config, sentences


def _nearest_batch(config: ConfigDict, shards: int) -> int:
    unit = math.lcm(shards, config.data.aug_repeats)
    return max(1, -(-config.train.batch_size // unit) - _rounds_down(config, unit)) * unit


def _rounds_down(config: ConfigDict, unit: int) -> bool:
    """Return True if the multiple of `unit` below the batch is nearer than the one above."""
    return 0 < config.train.batch_size % unit <= unit / 2


def _nearest_accumulation(steps: int, local: int) -> int:
    """Return the divisor of `local` nearest to `steps`, of two the larger: it takes less memory."""
    return min(divisors(local), key=lambda divisor: (abs(divisor - steps), -divisor))


def divisors(number: int) -> Sequence[int]:
    """Return the divisors of a positive number, the smallest first."""
    low = [n for n in range(1, math.isqrt(number) + 1) if number % n == 0]
    return sorted({*low, *(number // n for n in low)})
