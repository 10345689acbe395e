"""What is compared runs in processes of their own, which are asked for one measurement at a time.

So a machine whose speed drifts treats all alike, each may have its own Python, and what one leaves
in a GPU's memory goes with its process.
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

# JAX takes memory as it needs it, up to nearly all, and the first GPU only.
ON_GPU = {
    "JAX_PLATFORMS": "cuda,cpu",
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    "XLA_CLIENT_MEM_FRACTION": "0.95",
    "XLA_PYTHON_CLIENT_MEM_FRACTION": "",  # its old name, with which JAX refuses the new one
    "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0],
}

_NO_MEMORY = ("RESOURCE_EXHAUSTED", "out of memory", "ALLOC_FAILED", "MemoryError")


class ContenderDied(SystemExit):
    """A process that ended instead of answering."""


class Contender:
    """A process that runs `script --worker NAME` under `python` and measures what it is told."""

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
        self.version = self._answer()

    def _answer(self) -> Any:
        line = self._process.stdout.readline()
        if not line:
            raise ContenderDied(f"{self.name} did not answer: its message is above.")
        return json.loads(line)

    def measure(self, task: str) -> Any:
        """What the process answers to `task`: a number, or whatever JSON holds."""
        try:
            self._process.stdin.write(task + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise ContenderDied(f"{self.name} has ended: its message is above.") from None
        return self._answer()

    def close(self) -> None:
        """Ends the process."""
        try:
            self._process.stdin.close()
        except BrokenPipeError:
            self._process.kill()
        self._process.wait()


def serve(version: str, measure: Callable[[str], Any]) -> None:
    """The other end: answers each task named on standard input with what `measure` returns."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # Libraries print, too.
    print(json.dumps(f"{version}, Python {platform.python_version()}"), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(measure(line.strip())), file=answers, flush=True)


def guarded(measure: Callable[[str], dict[str, Any]]) -> Callable[[str], dict[str, Any]]:
    """`measure`, whose failures are answers too: `error`, a line, and `out_of_memory`, a bool."""

    def answer(task: str) -> dict[str, Any]:
        try:
            return measure(task)
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            out_of_memory = any(sign in text for sign in _NO_MEMORY)
            # An InputError is a sentence that says all.
            if not out_of_memory and type(error).__name__ != "InputError":
                traceback.print_exc()
            return {"error": text.partition("\n")[0][:300], "out_of_memory": out_of_memory}

    return answer
