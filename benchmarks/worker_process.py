"""Worker processes of the comparisons: one process per implementation, one measurement per request.

A driver interleaves single measurements, so that drift of the machine's speed affects all
implementations alike. Each implementation may use its own Python interpreter, and the GPU memory
that it allocates is released when its process exits.
"""

import json
import os
import platform
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

# JAX allocates GPU memory on demand, up to nearly all of it, and uses the first GPU only.
GPU_ENVIRONMENT = {
    "JAX_PLATFORMS": "cuda,cpu",
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    "XLA_CLIENT_MEM_FRACTION": "0.95",
    # The old name of the line above: JAX refuses to start when both have a value.
    "XLA_PYTHON_CLIENT_MEM_FRACTION": "",
    "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0],
}

_OUT_OF_MEMORY_SIGNS = ("RESOURCE_EXHAUSTED", "out of memory", "ALLOC_FAILED", "MemoryError")


class WorkerDied(SystemExit):
    """A worker process exited instead of replying."""


class WorkerProcess:
    """A process that runs `script --worker NAME` under `python` and replies to requests.

    `version` is the worker's first reply: the versions of its library and of its Python.
    """

    def __init__(
        self,
        name: str,
        python: str,
        script: str,
        environment: Mapping[str, str] | None = None,
        arguments: Sequence[str] = (),
    ) -> None:
        self.name = name
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        self._process = subprocess.Popen(
            [python, script, "--worker", name, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": path, **(environment or {})},
        )
        self.version = self._read_reply()

    def _read_reply(self) -> Any:
        line = self._process.stdout.readline()
        if not line:
            raise WorkerDied(
                f"Expected a reply from the worker {self.name}, but its process has exited: "
                "see its error message above."
            )
        return json.loads(line)

    def request(self, task: str) -> Any:
        """Send `task` to the worker and return its reply, which may be any JSON value.

        Raises:
          WorkerDied: the process has exited.
        """
        try:
            self._process.stdin.write(task + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise WorkerDied(
                f"The process of the worker {self.name} has exited: see its error message above."
            ) from None
        return self._read_reply()

    def close(self) -> None:
        """End the process."""
        try:
            self._process.stdin.close()
        except BrokenPipeError:
            self._process.kill()
        self._process.wait()


def serve_tasks(version: str, handle: Callable[[str], Any]) -> None:
    """Run the worker's side: reply to each task on standard input with `handle(task)` as JSON."""
    replies = os.fdopen(os.dup(1), "w")
    # Libraries print to standard output too; their lines must not mix with the replies.
    os.dup2(2, 1)
    print(json.dumps(f"{version}, Python {platform.python_version()}"), file=replies, flush=True)
    for line in sys.stdin:
        print(json.dumps(handle(line.strip())), file=replies, flush=True)


def catch_errors(handle: Callable[[str], dict[str, Any]]) -> Callable[[str], dict[str, Any]]:
    """Wrap `handle` so that a failure becomes a reply: `error`, one line, and `out_of_memory`."""

    def handle_safely(task: str) -> dict[str, Any]:
        try:
            return handle(task)
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            out_of_memory = any(sign in text for sign in _OUT_OF_MEMORY_SIGNS)
            # The message of an InputError is complete without a traceback.
            if not out_of_memory and type(error).__name__ != "InputError":
                traceback.print_exc()
            return {"error": text.partition("\n")[0][:300], "out_of_memory": out_of_memory}

    return handle_safely
