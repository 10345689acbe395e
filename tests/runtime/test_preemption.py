"""A SIGTERM, whenever it comes, costs a run not more than the step in flight."""

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
from vswin_jax.reporting.metric_writer import read_metrics
from vswin_jax.runtime import signal_watcher
from vswin_jax.training import loop as train_module

if TYPE_CHECKING:
    from conftest import Run

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("compile_once")]
ROOT = Path(__file__).parents[2]
PATIENCE = 300.0  # seconds

# Runs the real command line; the process gets a signal while it compiles its first step.
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
    """Where a function of a module, or of a class in it, is entered for the n-th time."""

    owner: Any
    name: str
    call: int
    seconds: float = 0.0

    def run(self, arguments: tuple[str, ...]) -> tuple[int, str]:
        """The status of a run that gets SIGTERM at the moment, or so much later; what it said."""
        calls = itertools.count(1)
        function = getattr(self.owner, self.name)

        @functools.wraps(function)
        def entered(*given: Any, **named: Any) -> Any:
            if next(calls) == self.call:
                threading.Timer(self.seconds, os.kill, (os.getpid(), signal.SIGTERM)).start()
                # The signal's own thread decides, so it is given the time to.
                time.sleep(0.2 if not self.seconds else 0)
            return function(*given, **named)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(self.owner, self.name, entered)
            return run(arguments)


def run(arguments: tuple[str, ...]) -> tuple[int, str]:
    said = StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        status = main.run(arguments)
    return status, said.getvalue()


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


# In the order in which a run comes by them: each one stops the run that the one before has left,
# and the number is that of the step that is then saved.
MOMENTS: dict[str, tuple[Moment, int]] = {
    "data": (Moment(moving_shapes, "write_video", 3), 0),
    "weights": (Moment(train_module, "log_parameters", 1), 0),
    "step": (Moment(train_module._Loop, "_next_batch", 4), 4),
    "save": (Moment(Checkpoints, "save", 1, 0.01), 7),
    "evaluation": (Moment(evaluate_module, "_real_rows", 1), 20),
    "compile of an evaluation": (Moment(evaluate_module, "compile_together", 1), 40),
    "evaluation made up for": (Moment(evaluate_module, "compile_together", 1), 40),
    "report": (Moment(report, "draw_predictions", 1), 40),
}


def test_a_run_stopped_at_every_kind_of_moment_is_the_undisturbed_one(
    tiny_run: "Run",
    tiny_arguments: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # This process is not to be ended while it unwinds, however busy the machine is.
    monkeypatch.setattr(signal_watcher, "_LEAVE_SECONDS", PATIENCE)
    arguments = (*tiny_arguments, f"--workdir={tmp_path}")
    for name, (moment, step) in MOMENTS.items():
        status, said = moment.run(arguments)
        assert status == 128 + signal.SIGTERM, (name, said)
        assert "SIGTERM stopped this run" in said, (name, said)
        assert max(saved(tmp_path), default=0) == step, (name, said)
        assert last_step(tmp_path) == step, (name, said)
        assert not list(tmp_path.rglob("*.partial")), name
        assert not list(tmp_path.glob("checkpoints/*tmp*")), name
    status, said = run(arguments)
    assert status == 0, said
    assert "quickstart: top-1" in said
    assert curve(tmp_path, "train") == curve(tiny_run.workdir, "train")
    assert curve(tmp_path, "eval") == curve(tiny_run.workdir, "eval")
    # The step whose evaluation came later has its score too.
    assert scores_of(tmp_path)["40"] == scores_of(tiny_run.workdir)["40"]
    status, said = run(arguments)
    assert (status, "This run is finished" in said) == (0, True)


def test_a_signal_while_the_first_step_is_compiled_does_not_wait_for_it(
    tiny_run: "Run", tiny_arguments: tuple[str, ...], tmp_path: Path
) -> None:
    data = f"--config.data.root={tiny_run.workdir / 'moving_shapes'}"
    command = [sys.executable, "-c", COMPILING, *tiny_arguments, data, f"--workdir={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    assert "SIGTERM stopped this run" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert saved(tmp_path) == []


def test_a_signal_while_the_program_is_loaded_ends_it(
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
    # The system ends it, until the command line has been reached.
    assert process.returncode in (-signal.SIGTERM, 128 + signal.SIGTERM)
    assert not (tmp_path / "run").exists()
