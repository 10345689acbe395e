import logging
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from fake_clock import FakeClock

from vswin_jax.reporting.goodput import CATEGORIES, GoodputRecorder
from vswin_jax.reporting.metric_writer import (
    MetricWriter,
    format_time,
    log_parameter_table,
    log_parameters,
    write_final,
)
from vswin_jax.reporting.metrics_file import read_metrics


def test_log_lines_have_the_speed_the_wait_for_data_and_the_time_left(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = FakeClock()
    caplog.set_level(logging.INFO, logger="vswin_jax")
    with MetricWriter(
        tmp_path, batch_size=8, total_steps=100, start_step=20, tensorboard=False, clock=clock
    ) as writer:
        with writer.phase("compile"):
            clock.now += 30.0
        clock.now += 7.5
        with writer.phase("data"):
            clock.now += 2.5
        with writer.phase("evaluation"):
            clock.now += 40.0
        writer.write_train(
            40, {"loss": 1.25, "top1": 0.5, "learning_rate": 1e-3, "skipped_total": 0}
        )
        clock.now += 10.0
        writer.ideal_step_seconds = 0.35
        writer.write_train(50, {"loss": 1.0, "skipped_total": 2})
        writer.write_evaluation(50, {"top1": 0.75, "top5": 1.0})
        writer.step = 52
        with writer.phase("save"):
            clock.now += 10.0
    assert caplog.messages == [
        "step 40/100  loss 1.2500  top-1 50.0%  lr 0.001  16 clips/s  waiting for data 25%  "
        "time left 30s",
        "step 50/100  loss 1.0000  skipped 2  8 clips/s  MFU 35.0%  waiting for data 0%  "
        "time left 50s",
        "quick evaluation at step 50  top-1 75.0%  top-5 100.0%",
        "step 52 after 1m40s: goodput 17.5%, badput: compilation 30.0%, waiting for data 2.5%, "
        "evaluation 40.0%, checkpointing 10.0%",
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


def test_goodput_is_logged_at_the_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    caplog.set_level(logging.INFO, logger="vswin_jax")
    arguments = {"batch_size": 1, "total_steps": 9, "tensorboard": False, "clock": clock}
    with MetricWriter(tmp_path, **arguments) as writer:
        for step in range(1, 8):
            clock.now += 250.0
            writer.step = step
            writer.write_train(step, {"loss": 1.0})
    assert [line for line in caplog.messages if "goodput" in line] == [
        "step 7 after 29m10s: goodput 100.0%"
    ]


def test_slow_steps_are_logged_twice_a_minute_and_the_files_do_not_depend_on_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = FakeClock()
    caplog.set_level(logging.INFO, logger="vswin_jax")
    arguments = {"batch_size": 4, "total_steps": 9, "tensorboard": False, "clock": clock}
    with MetricWriter(tmp_path, **arguments) as writer:
        for step in range(1, 7):
            clock.now += 20.0
            writer.log_if_quiet(step, {"loss": float(step)})
        writer.write_train(6, {"loss": 6.0})
    assert [line.partition("  time")[0] for line in caplog.messages[:-1]] == [
        f"step {step}/9  loss {step}.0000  0.2 clips/s  waiting for data 0%"
        for step in (2, 4, 6, 6)
    ]
    (entry,) = read_metrics(tmp_path / "metrics.jsonl", "train")
    assert (entry["step"], entry["steps_per_second"]) == (6, 0.05)


def test_goodput_continues_when_the_run_resumes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Kill a run after 60 s, 20 s after the last save."""
    clock = FakeClock()
    arguments = {"batch_size": 1, "total_steps": 9, "tensorboard": False, "clock": clock}
    killed = MetricWriter(tmp_path, **arguments)
    clock.now += 40.0
    killed.mark_saved(4)
    clock.now += 20.0
    killed.write_train(6, {"loss": 1.0})
    caplog.set_level(logging.INFO, logger="vswin_jax")
    caplog.clear()
    with MetricWriter(tmp_path, start_step=4, goodput=GoodputRecorder(clock=clock), **arguments):
        clock.now += 20.0
    assert caplog.messages == ["step 4 after 1m20s: goodput 75.0%, badput: lost steps 25.0%"]


def test_tensorboard_has_the_same_numbers(tmp_path: Path) -> None:
    pytest.importorskip("clu.metric_writers")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    clock = FakeClock()
    arguments = {"clock": clock, "goodput": GoodputRecorder(clock=clock)}
    with MetricWriter(tmp_path, batch_size=1, total_steps=2, **arguments) as writer:
        clock.now += 30.0
        with writer.phase("save"):
            clock.now += 10.0
        writer.write_train(1, {"loss": 0.5})
        writer.write_evaluation(2, {"top1": 0.25})
        writer.write_image("clips", 0, np.zeros((3, 5, 3), np.uint8))
    (last,) = read_metrics(tmp_path / "metrics.jsonl", "goodput")
    for _ in range(2):
        write_final(tmp_path, 2, {"top1": 0.75})
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    scores = (("quick/top1", 2, 0.25), ("final/top1", 2, 0.75))
    for tag, step, value in (("train/loss", 1, 0.5), *scores):
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
from vswin_jax.reporting.goodput import CATEGORIES, GoodputRecorder
from vswin_jax.reporting.metric_writer import MetricWriter, write_final, log_parameters
log_parameters({"head": {"kernel": np.zeros((3, 5), np.float32)}})
with MetricWriter(sys.argv[1], batch_size=1, total_steps=1) as writer:
    writer.write_train(1, {"loss": 0.5})
    writer.write_image("clips", 1, np.zeros((3, 5, 3), np.uint8))
"""


def test_the_log_and_the_file_are_written_without_clu_and_tensorflow(tmp_path: Path) -> None:
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


def test_the_parameter_overview_lists_every_parameter(caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("clu")
    caplog.set_level(logging.INFO, logger="vswin_jax")
    params = {"head": {"kernel": jnp.zeros((300, 500)), "bias": jnp.zeros(500)}}
    log_parameters(params)
    assert caplog.messages == ["150,500 parameters in 2 tensors, 0.6 MB"]
    log_parameter_table(params)
    assert "head/kernel" in caplog.text
    assert "150,500 parameters in 2 tensors, 0.6 MB" in caplog.text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (7.4, "7s"), (59.6, "1m00s"), (200, "3m20s"), (3900, "1h05m"), (183600, "2d03h")],
)
def test_format_time(seconds: float, text: str) -> None:
    assert format_time(seconds) == text
