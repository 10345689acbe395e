"""Streams of commands, in real processes: closed, without a reader, full, of other encodings."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = """
import os, sys
from vswin_jax.runtime.script_parser import script_parser
from vswin_jax.runtime.standard_streams import print_message, run_script

def run(arguments):
    script_parser("A script: for tests.").parse_args(arguments)
    for number in range(40_000 if "MANY" in os.environ else 1):
        print("line", number, "\\udce9 \\u8dd1 \\U0001f600")
    print_message("message \\udce9 \\u8dd1")
    with open("file", "w") as file:
        if "MANY" not in os.environ:
            os.write(2, b"of a C library\\n")
        file.write("own text")
    return 3

sys.exit(run_script(run))
"""


def shell(command: str, tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run a command of bash, in which $SCRIPT is the command of the script."""
    (tmp_path / "script.py").write_text(SCRIPT)
    script = f"{sys.executable} {tmp_path / 'script.py'}"
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(
        ["bash", "-c", command.replace("SCRIPT", script)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
    )


@pytest.mark.parametrize(
    ("encoding", "printed"),
    [("utf-8", "line 0 \\udce9 跑 😀"), ("ascii", r"line 0 \udce9 \u8dd1 \U0001f600")],
)
def test_any_text_is_printed_in_any_encoding(tmp_path: Path, encoding: str, printed: str) -> None:
    done = shell("SCRIPT", tmp_path, PYTHONIOENCODING=encoding)
    assert done.stdout.decode() == f"{printed}\n"
    assert done.stderr.startswith(b"message \\udce9 ")
    assert done.returncode == 3


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&-", "<&- >&- 2>&-"])
def test_closed_streams(tmp_path: Path, closed: str) -> None:
    """The next file would get the number 2, and what a C library writes to it."""
    done = shell(f"SCRIPT {closed}", tmp_path)
    assert done.returncode == 3
    assert b"Traceback" not in done.stderr
    assert (tmp_path / "file").read_text() == "own text"


def test_a_reader_that_ends_early(tmp_path: Path) -> None:
    done = shell("SCRIPT | head -1; echo ${PIPESTATUS[0]}", tmp_path, MANY="1")
    assert done.stdout == b"line 0 \\udce9 \xe8\xb7\x91 \xf0\x9f\x98\x80\n141\n"
    assert done.stderr == b""


def test_a_socket_whose_reader_ends_early(tmp_path: Path) -> None:
    reader, writer = socket.socketpair()
    (tmp_path / "script.py").write_text(SCRIPT)
    with writer:
        process = subprocess.Popen(
            [sys.executable, tmp_path / "script.py"],
            cwd=tmp_path,
            env={"PYTHONPATH": str(ROOT), "MANY": "1"},
            stdout=writer,
            stderr=subprocess.PIPE,
        )
    with reader:
        assert reader.recv(4) == b"line"
    assert process.communicate() == (None, b"")
    assert process.returncode == 141


def test_messages_without_a_reader_do_not_end_the_work(tmp_path: Path) -> None:
    done = shell("SCRIPT 2>&1 >printed | true; echo ${PIPESTATUS[0]}", tmp_path, MANY="1")
    assert done.stdout == b"3\n"
    assert (tmp_path / "file").read_text() == "own text"


def test_help_without_a_reader(tmp_path: Path) -> None:
    done = shell("SCRIPT --help | true; echo ${PIPESTATUS[0]}", tmp_path)
    assert done.stdout in (b"0\n", b"141\n")
    assert done.stderr == b""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_full_disk(tmp_path: Path) -> None:
    done = shell("SCRIPT >/dev/full", tmp_path)
    assert done.returncode == 1
    *_, last = done.stderr.decode().splitlines()
    assert last == (
        "error: The output cannot be written (No space left on device): make room there."
    )
