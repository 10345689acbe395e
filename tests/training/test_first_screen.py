"""The first lines of a run's log, for configs of which the right answers are known."""

import logging
from pathlib import Path

import pytest

from vswin_jax import factory
from vswin_jax.config import flags
from vswin_jax.sharding.mesh import make_mesh
from vswin_jax.training.first_screen import (
    describe_large_batch,
    describe_schedule,
    log_first_screen,
)

QUICKSTART = str(Path(__file__).parents[2] / "experiments" / "quickstart.py")


def test_a_run_says_what_it_is(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="vswin_jax")
    config = flags.load(QUICKSTART)
    model = factory.build_model(config, num_classes=8)
    log_first_screen(config, "runs/q", model, make_mesh(), {"train": 4000, "eval": 400})
    devices, chosen, data, schedule, files, compiling = [
        line for line in caplog.messages if "JAX runs on the CPU" not in line
    ]
    assert devices.startswith("devices: ")
    assert devices.endswith("(platform cpu), mesh data=1")
    assert chosen.startswith("model: swin_tiny on clips of 8x32x32, float32, attention ")
    assert data == "data: 4000 training and 400 held-out videos of 8 classes"
    assert schedule == (
        "schedule: 2400 steps of 32 clips, 125 steps an epoch, 19.2 epochs; quick evaluation every "
        "600 steps, checkpoint every 300 steps"
    )
    assert files == "writes to runs/q: checkpoints, metrics.jsonl and TensorBoard files"
    assert compiling == "compiling, which takes longest at a first start"


def test_who_chose_the_implementations(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="vswin_jax")
    config = flags.load(QUICKSTART)
    config.model.attention = config.model.tokenwise = "xla"
    model = factory.build_model(config, num_classes=8)
    log_first_screen(config, "runs/q", model, make_mesh(), {"train": 16, "eval": 400})
    assert "attention xla (by config.model.attention)" in caplog.text
    assert "tokenwise xla (by config.model.tokenwise)" in caplog.text
    assert "config.train.batch_size is 32 but there are only 16 training clips" in caplog.text


def test_a_batch_that_is_larger_than_the_training_set() -> None:
    text = describe_large_batch(16, 6)
    assert "each of them up to 3 times" in text
    assert "a step is 2.67 epochs" in text


def test_fractional_schedules() -> None:
    config = flags.load(QUICKSTART)
    config.train.update(duration="3 epochs", eval_every="0 steps", grad_accum_steps=4)
    assert describe_schedule(config, 100) == (
        "10 steps of 32 clips in 4 micro-batches, 3.125 steps an epoch, 3.2 epochs; quick "
        "evaluation at the end, checkpoint every 300 steps"
    )
