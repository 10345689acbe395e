from types import SimpleNamespace

import pytest

from vswin_jax.errors import InputError
from vswin_jax.training.durations import TrainingDurations


def durations(**overrides: str) -> TrainingDurations:
    settings = {
        "duration": "2 epochs",
        "log_every": "1 steps",
        "eval_every": "1 epochs",
        "checkpoint_every": "3 steps",
        **overrides,
    }
    config = SimpleNamespace(
        train=SimpleNamespace(batch_size=4, max_bad_steps=3, **settings),
        optim=SimpleNamespace(warmup="2 examples"),
    )
    return TrainingDurations.from_config(config, num_examples=10)


def test_durations_may_be_fractional() -> None:
    two_epochs = durations()
    assert two_epochs.steps_per_epoch == 2.5
    assert two_epochs.total_steps == 5
    assert two_epochs.warmup_steps == 0.5
    assert durations(duration="1 epochs").total_steps == 3


def test_due_when_a_multiple_is_passed_and_at_the_end() -> None:
    ten_steps = durations(duration="10 steps")
    assert [step for step in range(1, 11) if ten_steps.is_due(step, 2.5)] == [3, 5, 8, 10]
    assert [step for step in range(1, 11) if ten_steps.is_due(step, 4)] == [4, 8, 10]
    assert [step for step in range(1, 11) if ten_steps.is_due(step, 0)] == [10]


def test_invalid_duration() -> None:
    with pytest.raises(InputError, match="'ten epochs'"):
        durations(duration="ten epochs")


def test_the_first_steps_are_logged_too() -> None:
    few = durations(duration="21 steps", log_every="20 steps")
    assert [step for step in range(1, 22) if few.is_logged(step)] == [1, 2, 5, 10, 20, 21]
    many = durations(duration="210 steps", log_every="100 steps")
    logged = [step for step in range(1, 211) if many.is_logged(step)]
    assert logged == [1, 2, 5, 10, 20, 50, 100, 200, 210]
    last = durations(duration="21 steps", log_every="0 steps")
    assert [step for step in range(1, 22) if last.is_logged(step)] == [21]
