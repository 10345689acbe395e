"""Processes of Python that are forked after their imports, which take seconds."""

import contextlib
import ctypes
import functools
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

# Variables that are read at import start with one of these. A process needs the server's values.
EARLY = (
    *("CUDA", "JAX_", "LANG", "LC_", "LD_", "LIBTPU", "MPL", "OMP", "OPENBLAS", "PYTHON", "TF_"),
    *("TPU", "XLA_"),
)
# But these are read when a backend is made, or the server applies them after the fork.
CACHE = ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
LATE = {*CACHE, "PYTHONPATH", "XLA_FLAGS"}
PR_SET_CHILD_SUBREAPER = 36

NewProcess = subprocess.Popen


@contextlib.contextmanager
def forked_commands() -> Iterator[None]:
    """Let `subprocess` fork the commands of Python that it starts meanwhile, where it can.

    It is for tests of what a command does, not of how it starts.
    """
    with pytest.MonkeyPatch.context() as patched:
        # Other systems have no subreapers.
        if sys.platform.startswith("linux"):
            patched.setattr(subprocess, "Popen", ForkedProcess)
        yield


class ForkedProcess(NewProcess):
    """A process that is forked after its imports if its command, options and environment allow it.

    It is a child of this process, as any that `subprocess.Popen` starts.
    """

    def _execute_child(self, *arguments: Any) -> None:
        command, executable, preexec_fn, _, pass_fds, directory, given, _, _, shell = arguments[:10]
        pipes, new_session = arguments[10:16], arguments[-2]
        environment = dict(os.environ if given is None else given)
        special = shell or executable or preexec_fn or pass_fds
        python = not special and command[0] == sys.executable and command[1] in ("-c", "-m")
        if not python or not server().can_serve(environment):
            super()._execute_child(*arguments)
            return
        request = {
            "arguments": [os.fspath(argument) for argument in command[1:]],
            "directory": os.path.abspath(directory or "."),
            "environment": environment,
            "new_session": new_session,
        }
        # What is not given, -1, is inherited.
        streams = [n if pipe == -1 else pipe for n, pipe in enumerate(pipes[i] for i in (0, 3, 5))]
        self.pid = server().fork(request, streams)
        self._child_created = True
        self._close_pipe_fds(*pipes)


@dataclass(frozen=True)
class Server:
    """A process that forks commands, see `command_server.py`; it ends with this process.

    Attributes:
      connection: The socket on which it takes commands.
      environment: Its environment.
    """

    connection: socket.socket
    environment: Mapping[str, str]

    def can_serve(self, environment: Mapping[str, str]) -> bool:
        """Return False if a process with this environment must import the modules itself."""
        differing = {name for name, _ in environment.items() ^ self.environment.items()}
        return not any(name.startswith(EARLY) for name in differing - LATE)

    def fork(self, command: Mapping[str, Any], streams: list[int]) -> int:
        """Start a command as a child of this process and return its id."""
        with adopt_orphans():
            socket.send_fds(self.connection, [json.dumps(command).encode()], streams)
            answer = self.connection.recv(100)
        if not answer:
            raise RuntimeError("The command server has ended; stderr has its messages")
        return int(answer)


@functools.cache
def server() -> Server:
    """Start the server of this process."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    environment = {name: text for name, text in os.environ.items() if name not in CACHE}
    program = Path(__file__).with_name("command_server.py")
    with theirs:
        NewProcess(
            [sys.executable, program, str(theirs.fileno())],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
        )
    return Server(ours, environment)


@contextlib.contextmanager
def adopt_orphans() -> Iterator[None]:
    """Make this process the parent of those descendants whose parents end meanwhile."""
    set_subreaper(True)
    try:
        yield
    finally:
        set_subreaper(False)


def set_subreaper(adopts: bool) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, int(adopts), 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")
