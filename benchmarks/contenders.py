"""What is compared runs in processes of their own, which are asked for one measurement at a time.

So a machine whose speed drifts treats all alike, and each may have its own Python.
"""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


class Contender:
    """A process that runs `script --worker NAME` under `python` and measures what it is told."""

    def __init__(
        self, name: str, python: str, script: str, environment: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        self._process = subprocess.Popen(
            [python, script, "--worker", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": path, **(environment or {})},
        )
        self.version = self._answer()

    def _answer(self) -> Any:
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} did not start: its message is above.")
        return json.loads(line)

    def measure(self, task: str) -> Any:
        """What the process answers to `task`: a number, or whatever JSON holds."""
        self._process.stdin.write(task + "\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """Ends the process."""
        self._process.stdin.close()
        self._process.wait()


def serve(version: str, measure: Callable[[str], Any]) -> None:
    """The other end: answers each task named on standard input with what `measure` returns."""
    print(json.dumps(f"{version}, Python {platform.python_version()}"), flush=True)
    for line in sys.stdin:
        print(json.dumps(measure(line.strip())), flush=True)
