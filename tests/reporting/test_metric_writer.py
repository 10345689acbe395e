import json
import logging
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from vswin_jax.reporting.goodput import CATEGORIES, Ledger
from vswin_jax.reporting.metric_writer import (
    MetricsFile,
    Telemetry,
    format_time,
    log_parameters,
    read_metrics,
)


class Clock:
    """A clock that stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_floats_read_back_exactly(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    values = {"loss": np.float32(1 / 3), "top1": 0.1, "skipped_total": 3}
    file = MetricsFile(path)
    file.write("train", 7, values)
    file.close()
    assert read_metrics(path) == [
        {
            "kind": "train",
            "step": 7,
            "loss": float(np.float32(1 / 3)),
            "top1": 0.1,
            "skipped_total": 3,
        }
    ]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_stay_valid_json(value: float, tmp_path: Path) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    path = tmp_path / "metrics.jsonl"
    file = MetricsFile(path)
    file.write("train", 1, {"loss": np.float32(value)})
    entry = json.loads(path.read_text(), parse_constant=refuse)
    file.close()
    np.testing.assert_equal(float(entry["loss"]), value)


def test_a_resumed_run_drops_what_it_will_write_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    first = MetricsFile(path)
    for step in (10, 20, 30):
        first.write("train", step, {"loss": 1.0 / step})
    first.write("eval", 20, {"top1": 0.5})
    first.close()
    with path.open("a") as file:
        file.write('{"kind": "train", "step": 40, "lo')
    resumed = MetricsFile(path, start_step=20)
    resumed.write("train", 30, {"loss": 0.25})
    resumed.close()
    steps = [(entry["kind"], entry["step"]) for entry in read_metrics(path)]
    assert steps == [("train", 10), ("train", 20), ("eval", 20), ("train", 30)]
    assert read_metrics(path, "train")[-1]["loss"] == 0.25
    assert read_metrics(path, "train")[0]["loss"] == 1.0 / 10
    assert [child.name for child in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_report_tells_speed_waiting_and_time_left(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    caplog.set_level(logging.INFO, logger="vswin_jax")
    with Telemetry(
        tmp_path, batch_size=8, total_steps=100, start_step=20, tensorboard=False, clock=clock
    ) as telemetry:
        with telemetry.during("compile"):
            clock.now += 30.0
        clock.now += 7.5
        with telemetry.during("data"):
            clock.now += 2.5
        with telemetry.during("evaluation"):
            clock.now += 40.0
        telemetry.train(40, {"loss": 1.25, "top1": 0.5, "learning_rate": 1e-3, "skipped_total": 0})
        clock.now += 10.0
        telemetry.ideal_step_seconds = 0.35
        telemetry.train(50, {"loss": 1.0, "skipped_total": 2})
        telemetry.evaluation(50, {"top1": 0.75, "top5": 1.0})
        telemetry.step = 52
        with telemetry.during("save"):
            clock.now += 10.0
    assert caplog.messages == [
        "step 40/100  loss 1.2500  top-1 50.0%  lr 0.001  16 clips/s  waiting for data 25%  "
        "time left 30s",
        "step 50/100  loss 1.0000  skipped 2  8 clips/s  MFU 35.0%  waiting for data 0%  "
        "time left 50s",
        "evaluation at step 50  top-1 75.0%  top-5 100.0%",
        "goodput of 1m40s at step 52: steps 17.5%, compiling 30.0%, waiting for data 2.5%, "
        "evaluating 40.0%, saving 10.0%",
    ]
    first, second = read_metrics(tmp_path / "metrics.jsonl", "train")
    assert (first["steps_per_second"], first["data_wait"], "mfu" in first) == (2.0, 0.25, False)
    assert second["mfu"] == pytest.approx(0.35)
    (shares,) = read_metrics(tmp_path / "metrics.jsonl", "goodput")
    assert [shares[name] for name in ("step", "steps", "data", "compile")] == [
        52,
        0.175,
        0.025,
        0.3,
    ]
    assert sum(shares[name] for name in CATEGORIES) == pytest.approx(1.0)


def test_the_log_has_the_ledger_every_ten_minutes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    caplog.set_level(logging.INFO, logger="vswin_jax")
    more = {"batch_size": 1, "total_steps": 9, "tensorboard": False, "clock": clock}
    with Telemetry(tmp_path, **more) as telemetry:
        for step in range(1, 8):
            clock.now += 250.0
            telemetry.step = step
            telemetry.train(step, {"loss": 1.0})
    said = [line.split(":")[0] for line in caplog.messages if line.startswith("goodput")]
    assert said == [
        "goodput of 12m30s at step 3",
        "goodput of 25m00s at step 6",
        "goodput of 29m10s at step 7",
    ]


def test_the_ledger_goes_on_with_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A kill after 60 s, 20 of which came after the last save."""
    clock = Clock()
    more = {"batch_size": 1, "total_steps": 9, "tensorboard": False, "clock": clock}
    killed = Telemetry(tmp_path, **more)
    clock.now += 40.0
    killed.saved(4)
    clock.now += 20.0
    killed.train(6, {"loss": 1.0})
    caplog.set_level(logging.INFO, logger="vswin_jax")
    caplog.clear()
    with Telemetry(tmp_path, start_step=4, ledger=Ledger(clock=clock), **more):
        clock.now += 20.0
    assert caplog.messages == ["goodput of 1m20s at step 4: steps 75.0%, lost steps 25.0%"]


def test_tensorboard_gets_the_same_numbers(tmp_path: Path) -> None:
    pytest.importorskip("clu.metric_writers")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    clock = Clock()
    clocks = {"clock": clock, "ledger": Ledger(clock=clock)}
    with Telemetry(tmp_path, batch_size=1, total_steps=2, **clocks) as telemetry:
        clock.now += 30.0
        with telemetry.during("save"):
            clock.now += 10.0
        telemetry.train(1, {"loss": 0.5})
        telemetry.evaluation(2, {"top1": 0.25})
        telemetry.picture("clips", 0, np.zeros((3, 5, 3), np.uint8))
    (last,) = read_metrics(tmp_path / "metrics.jsonl", "goodput")
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    for tag, step, value in (("train/loss", 1, 0.5), ("eval/top1", 2, 0.25)):
        (event,) = events.Tensors(tag)
        assert (event.step, make_ndarray(event.tensor_proto)) == (step, value)
    (event,) = events.Tensors("goodput/steps")
    assert make_ndarray(event.tensor_proto) == last["steps"] == 0.75
    (event,) = events.Tensors("clips")
    width, height, _ = make_ndarray(event.tensor_proto)
    assert (event.step, width, height) == (0, b"5", b"3")


WITHOUT_CLU = """
import logging, sys
class Absent:
    def find_spec(self, name, *rest):
        if name.split(".")[0] in ("clu", "tensorflow", "tensorboard", "ml_collections"):
            raise ModuleNotFoundError("No module named " + name)
sys.meta_path.insert(0, Absent())
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
import numpy as np
from vswin_jax import checkpoint
from vswin_jax.training import losses, metrics, optimizer, schedules, state, steps
from vswin_jax.sharding import mesh
from vswin_jax.reporting.goodput import CATEGORIES, Ledger
from vswin_jax.reporting.metric_writer import Telemetry, log_parameters
log_parameters({"head": {"kernel": np.zeros((3, 5), np.float32)}})
with Telemetry(sys.argv[1], batch_size=1, total_steps=1) as telemetry:
    telemetry.train(1, {"loss": 0.5})
    telemetry.picture("clips", 1, np.zeros((3, 5, 3), np.uint8))
"""


def test_without_clu_and_tensorflow_the_log_and_the_file_remain(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_CLU, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "TensorBoard is off" in done.stdout
    assert "15 parameters in 1 tensors, 0.0 MB" in done.stdout
    assert "step 1/1  loss 0.5000" in done.stdout
    assert read_metrics(tmp_path / "metrics.jsonl")[0]["loss"] == 0.5


def test_the_overview_lists_every_parameter(caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("clu")
    caplog.set_level(logging.INFO, logger="vswin_jax")
    log_parameters({"head": {"kernel": jnp.zeros((300, 500)), "bias": jnp.zeros(500)}})
    assert "head/kernel" in caplog.text
    assert "150,500 parameters in 2 tensors, 0.6 MB" in caplog.text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (7.4, "7s"), (59.6, "1m00s"), (200, "3m20s"), (3900, "1h05m"), (183600, "2d03h")],
)
def test_durations_for_people(seconds: float, text: str) -> None:
    assert format_time(seconds) == text
