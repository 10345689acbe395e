"""Two runs in one workdir: real processes, with everything that a user may start beside a run."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from forked_process import forked_commands
from started_runs import PATIENCE, wait_for_step

from vswin_jax.errors import InputError
from vswin_jax.runtime.workdir_lock import LOCK_FILE, lock_workdir

if TYPE_CHECKING:
    from conftest import Run

ROOT = Path(__file__).parents[2]
HOLDER = """
import sys
from vswin_jax.runtime.workdir_lock import lock_workdir

with lock_workdir(sys.argv[1]):
    print("locked", flush=True)
    sys.stdin.read()
"""

Start = Callable[..., "subprocess.Popen[str]"]


def test_a_second_run_is_refused_with_the_host_and_the_process_of_the_first(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, **pipes) as first:
        assert first.stdout.readline() == "locked\n"
        with pytest.raises(InputError) as refused, lock_workdir(tmp_path, wait_seconds=0.0):
            pass
        assert str(refused.value).startswith(
            f"Another run is in the workdir '{tmp_path}' (process {first.pid} on host "
            f"'{socket.gethostname()}', since 20"
        )
        assert str(refused.value).endswith("stop it, or give another workdir.")
        first.kill()
    with lock_workdir(tmp_path, wait_seconds=0.0):
        pass


def test_a_workdir_that_the_block_created_goes_with_it_if_it_is_empty(tmp_path: Path) -> None:
    with lock_workdir(tmp_path / "runs" / "empty"):
        assert os.listdir(tmp_path / "runs" / "empty") == [LOCK_FILE]
    assert not (tmp_path / "runs").exists()
    with lock_workdir(tmp_path / "runs" / "full"):
        (tmp_path / "runs" / "full" / "config.json").write_text("{}")
    assert os.listdir(tmp_path / "runs" / "full") == ["config.json"]
    with lock_workdir(tmp_path / "runs"):
        pass
    (tmp_path / "own").mkdir()
    with lock_workdir(tmp_path / "own"):
        pass
    assert sorted(os.listdir(tmp_path)) == ["own", "runs"]


def test_a_block_within_a_block_does_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with lock_workdir("w"):
        with lock_workdir(tmp_path / "w", wait_seconds=0.0):
            pass
        assert (tmp_path / "w" / LOCK_FILE).exists()


def test_a_file_in_the_way_of_the_workdir(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"), lock_workdir(tmp_path / "file" / "run"):
        pass


@pytest.fixture
def start(
    tiny_run: "Run", tiny_arguments: tuple[str, ...], compiled_programs: Path
) -> Iterator[Start]:
    """Return a function that starts the tiny run as a process; all are killed at the end."""
    processes: list[subprocess.Popen[str]] = []
    environment = {
        **os.environ,
        "JAX_COMPILATION_CACHE_DIR": str(compiled_programs),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
    }

    def start(workdir: Path, *more: str) -> "subprocess.Popen[str]":
        data = f"--config.data.root={tiny_run.workdir / 'moving_shapes'}"
        program = [sys.executable, "-m", "vswin_jax.main"]
        command = [*program, *tiny_arguments, data, f"--workdir={workdir}", *more]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        with forked_commands():
            process = subprocess.Popen(command, cwd=ROOT, env=environment, **pipes)
        processes.append(process)
        return process

    yield start
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.communicate()


@pytest.mark.long
def test_training_goes_on_beside_what_is_started_in_its_workdir(
    start: Start, tmp_path: Path
) -> None:
    endless = ("--config.train.duration=1000000 steps", "--config.train.max_to_keep=50")
    first = start(tmp_path, *endless)
    # Step 7 is saved when the save of step 14 begins.
    wait_for_step(first, tmp_path, 15)

    second = start(tmp_path, *endless)
    evaluating = start(tmp_path, "--mode=evaluate")
    printed, logged = second.communicate(timeout=PATIENCE)
    assert (second.returncode, printed) == (2, "")
    *_, last = logged.splitlines()
    holder = f"(process {first.pid} on host "
    assert last.startswith(f"error: Another run is in the workdir '{tmp_path}' {holder}")
    assert "Traceback" not in logged
    printed, logged = evaluating.communicate(timeout=PATIENCE)
    assert evaluating.returncode == 0, logged
    assert "quickstart, final: top-1" in printed
    summary = json.loads((tmp_path / "evaluation" / "summary.json").read_text())
    assert summary["step"] >= 7

    # Stopped, and started again while it still ends.
    first.send_signal(signal.SIGTERM)
    third = start(tmp_path, *endless)
    printed, logged = first.communicate(timeout=PATIENCE)
    assert first.returncode == 128 + signal.SIGTERM, logged
    # The third one may be saving a step, under a longer name.
    names = [path.name for path in (tmp_path / "checkpoints").iterdir()]
    saved = max(int(name) for name in names if name.isdigit())
    wait_for_step(third, tmp_path, saved + 1)
    third.kill()
    third.communicate()
    # It names a process that is gone, which `lock_workdir` passes over.
    assert (tmp_path / LOCK_FILE).exists()
