"""Forks commands from a process that has imported what they import.

    python tests/command_server.py DESCRIPTOR

Each message on the socket `DESCRIPTOR` is one command, with its standard streams;
`forked_process.py` sends them. Importing JAX, Orbax and TensorFlow takes more time than what most
of the commands that tests start do then.
"""

import gc
import importlib
import json
import os
import runpy
import socket
import sys
import types
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
# What the commands import at their start, or in a thread soon afterwards.
PRELOADED = (
    *("vswin_jax.main", "orbax.checkpoint", "tensorflow", "clu.metric_writers", "av", "cv2"),
    *("matplotlib.pyplot", "vswin_jax.data.pipeline.tensorflow_filler"),
)
MESSAGE_BYTES = 1 << 20


@dataclass(frozen=True)
class Command:
    """A command line of Python, and what a new process would get besides its streams.

    Attributes:
      arguments: `["-m", MODULE, ...]` or `["-c", PROGRAM, ...]`.
      directory: Its working directory.
      environment: All of its environment.
      new_session: Whether it leads a session of its own.
    """

    arguments: list[str]
    directory: str
    environment: dict[str, str]
    new_session: bool


def preload() -> None:
    """Import what commands need, but not the commands themselves; make no backend of JAX."""
    sys.path.insert(0, str(ROOT))
    for name in PRELOADED:
        importlib.import_module(name)
    sys.path.remove(str(ROOT))
    # Python warns of a module that is there before `python -m` runs it.
    del sys.modules["vswin_jax.main"]
    del sys.modules["vswin_jax"].main


def serve(connection: socket.socket) -> Command | None:
    """Fork a process for each command and return it there; return None when the socket closes."""
    while True:
        message, streams, *_ = socket.recv_fds(connection, MESSAGE_BYTES, 3)
        if not message:
            return None
        pid = fork_orphan()
        if pid is None:
            connection.close()
            take_streams(streams)
            return Command(**json.loads(message))
        for stream in streams:
            os.close(stream)
        connection.send(str(pid).encode())


def fork_orphan() -> int | None:
    """Fork a process whose parent has ended, and return its id; in that process return None.

    The nearest ancestor that is a subreaper, see prctl(2), becomes its parent.
    """
    reader, writer = os.pipe()
    parent = os.fork()
    if parent == 0:
        child = os.fork()
        if child:
            os.write(writer, str(child).encode())
            os._exit(0)
    else:
        os.waitpid(parent, 0)
        child = int(os.read(reader, 100))
    os.close(reader)
    os.close(writer)
    return child or None


def take_streams(descriptors: list[int]) -> None:
    """Make these descriptors stdin, stdout and stderr."""
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        old = getattr(sys, name)
        # The old one would keep what it knows of the server's file, such as whether it can seek.
        new = open(  # noqa: SIM115
            number,
            "w" if number else "r",
            buffering=1 if name == "stderr" else -1,
            encoding=old.encoding,
            errors=old.errors,
            closefd=False,
        )
        setattr(sys, name, new)
        setattr(sys, f"__{name}__", new)


def start(command: Command, search_path: list[str], server: Mapping[str, str]) -> None:
    """Give this process the properties that a new one would have, then run the command.

    Args:
      command: The command.
      search_path: The path of imports without PYTHONPATH and the first entry.
      server: The environment with which the modules were imported.
    """
    if command.new_session:
        os.setsid()
    os.chdir(command.directory)
    os.environ.clear()
    os.environ.update(command.environment)
    option, program, *arguments = command.arguments
    first = os.getcwd() if option == "-m" else ""
    sys.path[:] = [first, *paths_of(command.environment), *search_path]
    apply_jax_variables(command.environment, server)
    sys.argv = [option, *arguments]
    if option == "-m":
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    else:
        sys.modules["__main__"] = module = types.ModuleType("__main__")
        exec(compile(program, "<string>", "exec"), module.__dict__)


def paths_of(environment: Mapping[str, str]) -> list[str]:
    return list(filter(None, environment.get("PYTHONPATH", "").split(os.pathsep)))


def apply_jax_variables(environment: Mapping[str, str], server: Mapping[str, str]) -> None:
    """Set the options of JAX whose variables differ from those at its import."""
    import jax

    for name, text in environment.items():
        if name.startswith("JAX_") and text != server.get(name):
            seconds = name.endswith("_SECS")
            jax.config.update(name.lower(), float(text) if seconds else text)


def main(descriptor: int) -> None:
    """Serve until the socket closes; in the process of a command, run it."""
    server = dict(os.environ)
    search_path = [path for path in sys.path[1:] if path not in paths_of(server)]
    preload()
    gc.freeze()
    with socket.socket(fileno=descriptor) as connection:
        command = serve(connection)
    if command is not None:
        start(command, search_path, server)


if __name__ == "__main__":
    main(int(sys.argv[1]))
