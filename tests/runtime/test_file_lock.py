"""Locks that real processes hold, release, wait for and die with."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pytest

from vswin_jax.errors import InputError
from vswin_jax.runtime.file_lock import exclusive_lock

ROOT = Path(__file__).parents[2]
# Holds the lock until its standard input is closed.
HOLDER = """
import logging, sys
from vswin_jax.runtime import file_lock

logging.basicConfig(level=logging.INFO)
with file_lock.exclusive_lock(sys.argv[1], "writing", wait_seconds=float(sys.argv[2])):
    print("locked", flush=True)
    sys.stdin.read()
"""
# As on a file system without locks; a lease lasts for a second, so that the test does not wait.
WITHOUT_LOCKS = """
import errno, os, sys
from vswin_jax.runtime import file_lock

def refuse(event, arguments):
    if event == "fcntl.flock":
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

sys.addaudithook(refuse)
file_lock._LEASE_SECONDS = 1.0
"""


def start(path: Path, wait_seconds: float = 0.0, program: str = HOLDER) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program, str(path), str(wait_seconds)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextmanager
def holding(path: Path, program: str = HOLDER) -> Iterator[subprocess.Popen[str]]:
    """Run a process that holds the lock during the block."""
    process = start(path, program=program)
    try:
        assert process.stdout.readline() == "locked\n", process.communicate()[1]
        yield process
    finally:
        process.kill()
        process.communicate()


def test_the_refusal_names_the_process_that_holds_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with holding(path) as process:
        with (
            pytest.raises(InputError) as refused,
            exclusive_lock(path, "writing to 'out'", advice="wait for it"),
        ):
            pass
        holder = rf"process {process.pid} on host '{re.escape(socket.gethostname())}', since "
        assert re.fullmatch(
            rf"Another run is writing to 'out' \({holder}[\d-]+ [\d:]+[+-][\d:]+\): wait for it\.",
            str(refused.value),
        )
        process.communicate("")
        assert process.returncode == 0
        assert not path.exists()
        with exclusive_lock(path, "writing"):
            assert f'"process": {os.getpid()}' in path.read_text()
    assert list(tmp_path.iterdir()) == []


def test_a_killed_process_holds_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with holding(path) as process:
        process.kill()
        process.wait()
        assert f'"process": {process.pid}' in path.read_text()
        with exclusive_lock(path, "writing"):
            assert f'"process": {os.getpid()}' in path.read_text()


def test_a_process_waits_for_a_holder_that_ends(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with exclusive_lock(path, "writing"):
        waiting = [start(path, wait_seconds=100), start(path, wait_seconds=100)]
        for process in waiting:
            line = process.stderr.readline()
            assert f"waiting for another run, which is writing (process {os.getpid()} on" in line
    # One of them has the lock now; when it ends, the other one gets it.
    for process in waiting:
        process.stdin.close()
    printed = [process.stdout.read() for process in waiting]
    assert (printed, [process.wait() for process in waiting]) == (["locked\n"] * 2, [0, 0])
    assert list(tmp_path.iterdir()) == []


def test_a_lock_file_without_a_holder_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    for left_behind in (b"", b"\xff", b"[]", b'{"process": 1, "host": "elsewhere"}'):
        path.write_bytes(left_behind)
        with exclusive_lock(path, "writing"):
            pass
        assert not path.exists()


def test_a_directory_that_a_holder_removes_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, open_file, modes = tmp_path / "work" / "lock", Path.open, []

    def open_late(path: Path, mode: str) -> BinaryIO:
        modes.append(mode)
        if len(modes) == 1:
            path.parent.rmdir()
        return open_file(path, mode)

    monkeypatch.setattr(Path, "open", open_late)
    with exclusive_lock(path, "writing"):
        assert path.exists()
    assert modes == ["a+b", "a+b"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_lock_file_of_another_user_is_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / "shared" / "lock"
    path.parent.mkdir()
    path.parent.chmod(0o1777)
    path.write_text('{"process": 1, "host": "elsewhere", "since": "yesterday"}')
    program = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from vswin_jax.runtime.file_lock import exclusive_lock\n"
        "directory = os.open(os.path.dirname(sys.argv[1]), os.O_RDONLY)\n"
        "os.setuid(12345)\n"
        "os.fchdir(directory)\n"
        "with exclusive_lock('lock', 'writing'):\n"
        "    print('locked')"
    )
    command = [sys.executable, "-c", program, str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("locked\n", "")
    with exclusive_lock(path, "writing"):
        pass


def test_a_lease_replaces_the_lock_where_there_are_none(tmp_path: Path) -> None:
    path, program = tmp_path / "lock", WITHOUT_LOCKS + HOLDER
    with holding(path, program) as process:
        second = start(path, program=program)
        printed, logged = second.communicate("")
        assert (second.returncode, printed) == (1, "")
        assert f"Another run is writing (process {process.pid} on host" in logged
    # It was killed: its lease is known to be over.
    with holding(path, program) as process:
        process.communicate("")
        assert process.returncode == 0
    assert list(tmp_path.iterdir()) == []
