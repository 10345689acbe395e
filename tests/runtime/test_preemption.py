"""A SIGTERM at any moment costs a run at most the step in progress."""

import functools
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from vswin_jax import main
from vswin_jax.checkpoint import Checkpoints
from vswin_jax.data.moving_shapes import moving_shapes
from vswin_jax.evaluation import evaluate as evaluate_module
from vswin_jax.evaluation import report
from vswin_jax.reporting.metrics_file import read_metrics
from vswin_jax.runtime import signal_watcher
from vswin_jax.training import loop as loop_module
from vswin_jax.training import train as train_module

if TYPE_CHECKING:
    from conftest import Run

pytestmark = pytest.mark.long
ROOT = Path(__file__).parents[2]
PATIENCE = 300.0  # seconds

# Runs the real command line and signals its own process while it compiles the first step.
COMPILING = """
import os, signal, sys, threading
import jax
from vswin_jax import main

compile = jax.stages.Lowered.compile

def compile_and_signal(*arguments, **settings):
    threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM)).start()
    return compile(*arguments, **settings)

jax.stages.Lowered.compile = compile_and_signal
sys.exit(main.main())
"""


@dataclass(frozen=True)
class Moment:
    """The n-th call of a function of a module or a class, and seconds after it."""

    owner: Any
    name: str
    call: int
    seconds: float = 0.0

    def run(self, arguments: tuple[str, ...]) -> tuple[int, str]:
        """Run with a SIGTERM at the moment; return the exit status and the output."""
        calls = itertools.count(1)
        function = getattr(self.owner, self.name)

        @functools.wraps(function)
        def signal_at_call(*args: Any, **kwargs: Any) -> Any:
            if next(calls) == self.call:
                threading.Timer(self.seconds, os.kill, (os.getpid(), signal.SIGTERM)).start()
                # The watcher thread decides what the signal interrupts; it needs some time.
                time.sleep(0.2 if not self.seconds else 0)
            return function(*args, **kwargs)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(self.owner, self.name, signal_at_call)
            return run(arguments)


def run(arguments: tuple[str, ...]) -> tuple[int, str]:
    output = StringIO()
    with redirect_stdout(output), redirect_stderr(output):
        status = main.run(arguments)
    return status, output.getvalue()


def curve(workdir: Path, kind: str) -> list[tuple[Any, ...]]:
    names = ("step", "loss", "top1", *(("grad_norm", "learning_rate") if kind == "train" else ()))
    entries = read_metrics(workdir / "metrics.jsonl", kind)
    return [tuple(entry[name] for name in names) for entry in entries]


def last_step(workdir: Path) -> int:
    return max((entry["step"] for entry in read_metrics(workdir / "metrics.jsonl")), default=0)


def saved(workdir: Path) -> list[int]:
    return sorted(int(path.name) for path in (workdir / "checkpoints").glob("[0-9]*"))


def scores_of(workdir: Path) -> dict[str, Any]:
    return {
        path.parent.parent.name: json.loads(path.read_text())
        for path in (workdir / "checkpoints").glob("*/metrics/metrics")
    }


# In the order in which a run reaches them. Each one stops the run that the previous one left; the
# number is that of the newest saved step afterwards.
MOMENTS: dict[str, tuple[Moment, int]] = {
    "data": (Moment(moving_shapes, "write_video", 3), 0),
    "weights": (Moment(train_module, "log_parameters", 1), 0),
    "step": (Moment(loop_module.TrainingLoop, "_next_batch", 4), 4),
    "save": (Moment(Checkpoints, "save", 1, 0.01), 7),
    "evaluation": (Moment(evaluate_module, "_gather_rows", 1), 20),
    "compile of an evaluation": (Moment(evaluate_module, "compile_together", 1), 40),
    "pending evaluation": (Moment(evaluate_module, "compile_together", 1), 40),
    "report": (Moment(report, "draw_predictions", 1), 40),
}


def test_a_run_stopped_at_every_kind_of_moment_equals_the_undisturbed_one(
    tiny_run: "Run",
    tiny_arguments: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # However busy the machine is, the watcher must not end this process while it unwinds.
    monkeypatch.setattr(signal_watcher, "_UNWIND_SECONDS", PATIENCE)
    arguments = (*tiny_arguments, f"--workdir={tmp_path}")
    for name, (moment, step) in MOMENTS.items():
        status, output = moment.run(arguments)
        assert status == 128 + signal.SIGTERM, (name, output)
        assert "SIGTERM stopped this run" in output, (name, output)
        assert max(saved(tmp_path), default=0) == step, (name, output)
        assert last_step(tmp_path) == step, (name, output)
        assert not list(tmp_path.rglob("*.partial")), name
        assert not list(tmp_path.glob("checkpoints/*tmp*")), name
    status, output = run(arguments)
    assert status == 0, output
    assert "quickstart, final: top-1" in output
    assert curve(tmp_path, "train") == curve(tiny_run.workdir, "train")
    assert curve(tmp_path, "eval") == curve(tiny_run.workdir, "eval")
    # The step whose evaluation was pending has its score too.
    assert scores_of(tmp_path)["40"] == scores_of(tiny_run.workdir)["40"]
    status, output = run(arguments)
    assert (status, "This run is finished" in output) == (0, True)


def test_a_signal_while_the_first_step_is_compiled_does_not_wait_for_it(
    tiny_run: "Run", tiny_arguments: tuple[str, ...], tmp_path: Path
) -> None:
    data = f"--config.data.root={tiny_run.workdir / 'moving_shapes'}"
    command = [sys.executable, "-c", COMPILING, *tiny_arguments, data, f"--workdir={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    assert "SIGTERM stopped this run" in done.stdout + done.stderr
    # Python ignores an exception within a callback of the garbage collector, and prints it; the
    # watcher then ends the process.
    assert done.stderr.count("Traceback") == done.stderr.count("Exception ignored in")
    assert saved(tmp_path) == []


def test_a_signal_during_the_imports_ends_the_process(
    tiny_arguments: tuple[str, ...], tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "vswin_jax.main", *tiny_arguments, f"--workdir={tmp_path}/run"]
    process = subprocess.Popen(
        command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.3)
    process.terminate()
    process.communicate(timeout=PATIENCE)
    # Until the handlers are installed the signal has its default action.
    assert process.returncode in (-signal.SIGTERM, 128 + signal.SIGTERM)
    assert not (tmp_path / "run").exists()
