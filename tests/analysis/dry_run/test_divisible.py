"""The batch and the accumulation that a dry run plans with where the config's do not divide."""

import pytest

from vswin_jax.analysis.dry_run.divisible import divisors, make_divisible
from vswin_jax.config import base_config


@pytest.mark.parametrize(
    ("batch", "accumulation", "shards", "aug_repeats", "planned"),
    [
        (64, 8, 8, 1, (64, 8)),
        # Four clips a device: of 1, 2 and 4 the nearest to 8 is 4.
        (64, 8, 16, 1, (64, 4)),
        # Of 2 and 4 the larger takes less memory.
        (64, 3, 16, 1, (64, 4)),
        (64, 5, 1, 1, (64, 4)),
        (64, 1, 256, 1, (256, 1)),
        (64, 8, 256, 1, (256, 1)),
        # 60 is as near to 72 as to 48: the smaller.
        (60, 1, 24, 1, (48, 1)),
        (70, 1, 24, 1, (72, 1)),
        # A multiple of 4 shards and of 6 repeats.
        (64, 2, 4, 6, (60, 3)),
    ],
)
def test_the_nearest_that_divide(
    batch: int, accumulation: int, shards: int, aug_repeats: int, planned: tuple[int, int]
) -> None:
    config = base_config()
    config.train.update(batch_size=batch, grad_accum_steps=accumulation)
    config.data.aug_repeats = aug_repeats
    chosen, sentences = make_divisible(config, shards)
    assert (chosen.train.batch_size, chosen.train.grad_accum_steps) == planned
    assert len(sentences) == (batch != planned[0]) + (accumulation != planned[1])
    # The given config is not changed.
    assert (config.train.batch_size, config.train.grad_accum_steps) == (batch, accumulation)


def test_each_choice_is_said_with_its_flag() -> None:
    config = base_config()
    config.train.update(batch_size=64, grad_accum_steps=8)
    _, sentences = make_divisible(config, 256)
    assert sentences[0].startswith("--config.train.batch_size=256, since 64 does not divide over")
    assert sentences[1].startswith("--config.train.grad_accum_steps=1, since 8 does not divide the")


def test_divisors() -> None:
    assert divisors(1) == [1]
    assert divisors(36) == [1, 2, 3, 4, 6, 9, 12, 18, 36]
