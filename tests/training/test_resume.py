"""A run that is killed and started again equals, bit for bit, an uninterrupted run."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from forked_process import forked_commands

from vswin_jax.reporting.metrics_file import read_metrics

if TYPE_CHECKING:
    from conftest import Run

ROOT = Path(__file__).parents[2]
# Before the first checkpoint (step 7) and between two later ones.
KILLED_AT = (3, 17)
TIMEOUT = 300.0  # seconds


def start(arguments: tuple[str, ...], workdir: Path, programs: Path) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "JAX_COMPILATION_CACHE_DIR": str(programs),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
    }
    command = [sys.executable, "-m", "vswin_jax.main", *arguments, f"--workdir={workdir}"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with forked_commands():
        return subprocess.Popen(command, cwd=ROOT, env=environment, **pipes)


def kill_after(process: subprocess.Popen[str], metrics: Path, step: int) -> None:
    """Send SIGKILL as soon as the metrics have `step`; the run must not have ended by itself."""
    deadline = time.monotonic() + TIMEOUT
    while last_step(metrics) < step:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.kill()
    process.communicate()
    assert process.returncode == -9


def last_step(metrics: Path) -> int:
    return max((entry["step"] for entry in read_metrics(metrics, "train")), default=0)


def curve(workdir: Path, kind: str) -> list[tuple[Any, ...]]:
    names = ("step", "loss", "top1", *(("grad_norm", "learning_rate") if kind == "train" else ()))
    entries = read_metrics(workdir / "metrics.jsonl", kind)
    return [tuple(entry[name] for name in names) for entry in entries]


@pytest.mark.long
def test_a_killed_run_resumes_bit_for_bit(
    tiny_run: "Run",
    tiny_arguments: tuple[str, ...],
    compiled_programs: Path,
    tmp_path: Path,
) -> None:
    data = f"--config.data.root={tiny_run.workdir / 'moving_shapes'}"
    for step in KILLED_AT:
        process = start((*tiny_arguments, data), tmp_path, compiled_programs)
        kill_after(process, tmp_path / "metrics.jsonl", step)
    process = start((*tiny_arguments, data), tmp_path, compiled_programs)
    printed, logged = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, logged
    assert "resuming after step" in logged
    assert "quickstart, final: top-1" in printed

    assert [step for step, *_ in curve(tmp_path, "train")] == list(range(1, 41))
    assert curve(tmp_path, "train") == curve(tiny_run.workdir, "train")
    assert curve(tmp_path, "quick") == curve(tiny_run.workdir, "quick")
    summaries = [w / "evaluation" / "summary.json" for w in (tmp_path, tiny_run.workdir)]
    assert json.loads(summaries[0].read_text()) == json.loads(summaries[1].read_text())
