from types import SimpleNamespace

import pytest

from vswin_jax.errors import InputError
from vswin_jax.training.durations import Plan


def plan(**durations: str) -> Plan:
    said = {
        "duration": "2 epochs",
        "log_every": "1 steps",
        "eval_every": "1 epochs",
        "checkpoint_every": "3 steps",
        **durations,
    }
    config = SimpleNamespace(
        train=SimpleNamespace(batch_size=4, max_bad_steps=3, **said),
        optim=SimpleNamespace(warmup="2 examples"),
    )
    return Plan.of(config, num_examples=10)


def test_lengths_need_not_be_whole() -> None:
    made = plan()
    assert made.steps_per_epoch == 2.5
    assert made.total_steps == 5
    assert made.warmup_steps == 0.5
    assert plan(duration="1 epochs").total_steps == 3


def test_due_when_a_multiple_is_passed_and_at_the_end() -> None:
    made = plan(duration="10 steps")
    assert [step for step in range(1, 11) if made.is_due(step, 2.5)] == [3, 5, 8, 10]
    assert [step for step in range(1, 11) if made.is_due(step, 4)] == [4, 8, 10]
    assert [step for step in range(1, 11) if made.is_due(step, 0)] == [10]


def test_unreadable_duration() -> None:
    with pytest.raises(InputError, match="'ten epochs'"):
        plan(duration="ten epochs")
