import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vswin_jax.errors import InputError
from vswin_jax.training.schedules import Schedule, make_schedule, parse_duration

EPOCH = 1000
BASE = 1e-3


def reference(**overrides: float) -> Schedule:
    lengths = {"total_steps": 30 * EPOCH, "steps_per_epoch": EPOCH, "warmup_steps": 2.5 * EPOCH}
    return make_schedule("epoch_cosine", **(lengths | overrides))


@pytest.mark.parametrize(
    ("step", "rate"),
    [
        (0, 1.0e-4),
        (EPOCH - 1, 4.60e-4),
        (EPOCH, 4.59e-4),
        (2.5 * EPOCH, 9.89e-4),
        (10 * EPOCH, 7.5e-4),
        (29 * EPOCH, 2.74e-6),
        (30 * EPOCH - 1, 2.74e-6),
    ],
)
def test_epoch_cosine_gives_the_published_rates(step: float, rate: float) -> None:
    assert float(BASE * reference()(step)) == pytest.approx(rate, rel=2e-3)


def test_epoch_cosine_equals_the_formula_at_every_step() -> None:
    steps = np.arange(30 * EPOCH)
    regular = 0.5 * (1 + np.cos(np.pi * (steps // EPOCH) / 30))
    warmup = 1 - 0.9 * (1 - np.minimum(steps / (2.5 * EPOCH), 1))
    np.testing.assert_allclose(reference()(steps), regular * warmup, rtol=1e-5, atol=1e-7)


def test_epoch_cosine_is_constant_within_an_epoch_after_the_warmup() -> None:
    values = np.asarray(reference()(jnp.arange(5 * EPOCH, 7 * EPOCH)))
    assert set(np.unique(values)) == {values[0], values[-1]}
    assert values[EPOCH - 1] == values[0] > values[EPOCH]


def test_a_traced_step_gives_the_value_of_a_concrete_one() -> None:
    schedule = reference(steps_per_epoch=97.3)
    traced = jax.jit(schedule)(jnp.asarray(1234, jnp.int32))
    assert traced.dtype == jnp.float32
    assert float(traced) == pytest.approx(float(schedule(1234)), rel=1e-6)


def test_epochs_of_a_fractional_length_begin_at_their_first_example() -> None:
    schedule = make_schedule(
        "epoch_cosine", total_steps=25, steps_per_epoch=2.5, warmup_steps=0, warmup_ratio=0.1
    )
    epochs = np.floor(np.arange(25) / 2.5)
    expected = 0.5 * (1 + np.cos(np.pi * epochs / 10))
    np.testing.assert_allclose(schedule(jnp.arange(25)), expected, atol=1e-6)


def test_cosine_rises_to_one_and_falls_to_zero() -> None:
    schedule = make_schedule("cosine", total_steps=100, steps_per_epoch=10, warmup_steps=20)
    values = np.asarray(schedule(jnp.arange(101)))
    assert values[0] == pytest.approx(0.1)
    assert values[20] == pytest.approx(1.0)
    assert values[60] == pytest.approx(0.5)
    assert values[100] == pytest.approx(0.0, abs=1e-7)
    assert (np.diff(values[:21]) > 0).all()
    assert (np.diff(values[20:]) < 0).all()


def test_without_a_warmup_the_first_step_has_the_full_rate() -> None:
    for name in ("cosine", "epoch_cosine"):
        schedule = make_schedule(name, total_steps=10, steps_per_epoch=5, warmup_steps=0)
        assert float(schedule(0)) == 1.0


def test_an_unknown_schedule_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match="did you mean 'cosine'"):
        make_schedule("cosin", total_steps=1, steps_per_epoch=1, warmup_steps=0)
    with pytest.raises(InputError, match="total_steps above 0, got 0"):
        make_schedule("cosine", total_steps=0, steps_per_epoch=1, warmup_steps=0)


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("30 epochs", 30 * 100 / 8),
        ("30 epoch", 30 * 100 / 8),
        ("2.5 Epochs", 2.5 * 100 / 8),
        (" 1000 steps ", 1000),
        ("1step", 1),
        ("1_000 steps", 1000),
        ("1e3 steps", 1000),
        ("64000 examples", 8000),
        ("0 epochs", 0),
    ],
)
def test_durations_in_every_unit(text: str, steps: float) -> None:
    assert parse_duration(text, batch_size=8, num_examples=100) == pytest.approx(steps)


@pytest.mark.parametrize(
    "text", ["30", "epochs", "-1 steps", "3 weeks", "", "1.2.3 steps", "nan epochs", "1e999 steps"]
)
def test_invalid_durations_are_rejected(text: str) -> None:
    with pytest.raises(InputError, match=r"A duration is a number and a unit.*got"):
        parse_duration(text, batch_size=8, num_examples=100)
