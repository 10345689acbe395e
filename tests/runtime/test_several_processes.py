"""Two and four real processes train as one, through deaths, signals and changes of their number."""

import contextlib
import json
import os
import runpy
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from drawn_videos import write_broken
from forked_process import forked_commands
from started_runs import PATIENCE, wait_for_step

from vswin_jax.reporting.metrics_file import read_metrics

pytestmark = pytest.mark.long

if TYPE_CHECKING:
    from conftest import Run

ROOT = Path(__file__).parents[2]
# Between runs on different numbers of processes, which add float32 values in different orders.
TOLERANCE = 1e-4
start = runpy.run_path(str(ROOT / "scripts" / "launch" / "local.py"))["start"]

Process = "subprocess.Popen[str]"
Launch = Callable[..., list[Process]]


@pytest.fixture(scope="module")
def launch(
    tiny_run: "Run", tiny_arguments: tuple[str, ...], compiled_programs: Path
) -> Iterator[Launch]:
    """Return a function that starts processes of the tiny run; all are killed at the end."""
    started: list[Process] = []
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(compiled_programs),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
    }

    def launch(workdir: Path, count: int, *more: str, forks: bool = True) -> list[Process]:
        data = f"--config.data.root={tiny_run.workdir / 'moving_shapes'}"
        # With two processes, one of them has no video in the last batch.
        uneven = "--config.eval.batch_size=5"
        arguments = (
            *tiny_arguments,
            data,
            uneven,
            f"--workdir={workdir}",
            "--heartbeat=900",
            *more,
        )
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        with forked_commands() if forks else contextlib.nullcontext():
            processes = start(count, arguments, env=cache, cwd=ROOT, **pipes)
        started.extend(processes)
        return processes

    yield launch
    for process in started:
        if process.poll() is None:
            process.kill()
            process.communicate()


@pytest.fixture(scope="module")
def undisturbed(launch: Launch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the workdir of an undisturbed run with two processes, which import what they need."""
    workdir = tmp_path_factory.mktemp("two") / "run"
    ended(launch(workdir, 2, forks=False))
    return workdir


def ended(processes: list[Process], status: int = 0) -> list[tuple[str, str]]:
    """Wait until all have exited with `status`; return what each has printed and logged."""
    outputs = [process.communicate(timeout=PATIENCE) for process in processes]
    assert [process.returncode for process in processes] == [status] * len(processes), outputs
    return outputs


def curve(workdir: Path, kind: str) -> np.ndarray:
    names = ("step", "loss", "top1", *(("grad_norm", "learning_rate") if kind == "train" else ()))
    entries = read_metrics(workdir / "metrics.jsonl", kind)
    return np.array([[entry[name] for name in names] for entry in entries])


def assert_same(ours: Path, theirs: Path, tolerance: float = 0.0) -> None:
    for kind in ("train", "eval"):
        np.testing.assert_allclose(curve(ours, kind), curve(theirs, kind), rtol=tolerance)


def saved(workdir: Path) -> int:
    names = [path.name for path in (workdir / "checkpoints").iterdir()]
    return max(int(name) for name in names if name.isdigit())


def test_two_processes_train_as_one(tiny_run: "Run", undisturbed: Path) -> None:
    assert_same(undisturbed, tiny_run.workdir, TOLERANCE)
    ours, theirs = (
        json.loads((workdir / "evaluation" / "summary.json").read_text())
        for workdir in (undisturbed, tiny_run.workdir)
    )
    assert ours.pop("loss") == pytest.approx(theirs.pop("loss"), rel=TOLERANCE)
    assert ours == theirs
    # Only process 0 writes: nothing is there twice. Its id is in the files' names.
    events = [path.name.split(".") for path in undisturbed.glob("events.out.tfevents*")]
    assert len({parts[-3] for parts in events}) == 1
    assert curve(undisturbed, "train")[:, 0].tolist() == list(range(1, 41))


@pytest.mark.parametrize("killed", [0, 1])
def test_one_killed_process_ends_the_others_and_all_resume_bit_for_bit(
    killed: int, undisturbed: Path, launch: Launch, tmp_path: Path
) -> None:
    # A process that waits for the other's part of a save notices its death by the heartbeat alone.
    processes = launch(tmp_path, 2, "--heartbeat=25")
    wait_for_step(processes[0], tmp_path, 9 + 8 * killed)
    processes[killed].kill()
    since = time.monotonic()
    logs = [process.communicate(timeout=PATIENCE)[1] for process in processes]
    assert time.monotonic() - since < 200
    assert processes[killed].returncode == -signal.SIGKILL
    assert processes[1 - killed].returncode not in (0, None), logs
    ended(launch(tmp_path, 2))
    assert_same(tmp_path, undisturbed)


def test_a_signal_to_one_stops_all_and_another_number_of_processes_resumes(
    undisturbed: Path, launch: Launch, tmp_path: Path
) -> None:
    processes = launch(tmp_path, 2)
    wait_for_step(processes[0], tmp_path, 10)
    processes[1].send_signal(signal.SIGTERM)
    (printed, _), (second, _) = ended(processes, 128 + signal.SIGTERM)
    step = saved(tmp_path)
    assert f"SIGTERM stopped this run after step {step} of 40, which is saved" in printed
    assert "SIGTERM" not in second
    assert curve(tmp_path, "train")[-1, 0] == step < 40
    np.testing.assert_array_equal(curve(tmp_path, "train"), curve(undisturbed, "train")[:step])
    # A batch of 4 cannot be split into micro-batches over 4 devices.
    outputs = ended(launch(tmp_path, 4, "--config.train.grad_accum_steps=1"))
    assert f"resuming after step {step}" in outputs[0][1]
    assert_same(tmp_path, undisturbed, TOLERANCE)
    outputs = ended(launch(tmp_path, 2))
    assert "This run is finished" in outputs[0][0]


def test_a_second_run_in_the_workdir_is_refused_on_all_of_its_processes(
    undisturbed: Path, launch: Launch, tmp_path: Path
) -> None:
    first = launch(tmp_path, 2)
    wait_for_step(first[0], tmp_path, 1)
    # It would have ended before the second one is there.
    for process in first:
        process.send_signal(signal.SIGSTOP)
    outputs = ended(launch(tmp_path, 2), 2)
    holder = f"Another run is in the workdir '{tmp_path}' (process {first[0].pid} on host "
    assert f"error: {holder}" in outputs[0][1].splitlines()[-1]
    assert f"error: process 0 ended the run: {holder}" in outputs[1][1].splitlines()[-1]
    for process in first:
        process.send_signal(signal.SIGCONT)
    ended(first)
    assert_same(tmp_path, undisturbed)


def test_an_error_of_one_process_ends_all_with_its_reason(
    tiny_run: "Run", launch: Launch, tmp_path: Path
) -> None:
    listed = [*(tiny_run.workdir / "moving_shapes" / "test").glob("*/*.mp4")]
    bad = tmp_path / "bad.mp4"
    write_broken(bad)
    lines = [f"{path} {number}" for number, path in enumerate([*listed[:4], bad, *listed[5:]])]
    (tmp_path / "test.txt").write_text("\n".join(lines))
    train = tmp_path / "train.txt"
    train.write_text("\n".join(f"{path} {number}" for number, path in enumerate(listed)))
    files = ("--config.data.kind=files", f"--config.data.train={train}")
    files += (f"--config.data.eval={tmp_path / 'test.txt'}", "--config.data.root=/")
    files += ("--config.eval.strict=true", "--config.train.eval_every=2 steps")
    processes = launch(tmp_path / "run", 2, *files)
    since = time.monotonic()
    first, second = ended(processes, 2)
    assert time.monotonic() - since < 100
    # The first batch has six videos; the fifth is in the half of the second process.
    assert "bad.mp4" in second[1].splitlines()[-1]
    reason = second[1].splitlines()[-1].removeprefix("error: ")
    assert f"error: process 1 ended the run: {reason}" in first[1]
    assert os.listdir(tmp_path / "run")
