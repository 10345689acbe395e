"""Starts `python -m vswin_jax.serve` as a process of its own."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class ServedRun:
    """The process, the address that it has printed, and all of its lines up to now."""

    process: "subprocess.Popen[str]"
    url: str
    lines: list[str] = field(default_factory=list)

    def stop(self, number: int = signal.SIGINT) -> int:
        """Send a signal and return the exit status."""
        self.process.send_signal(number)
        return self.process.wait(timeout=120)


@contextlib.contextmanager
def served_run(workdir: Path, folder: Path, *arguments: str) -> Iterator[ServedRun]:
    """Serve a run at a free port during the block; `folder` is the process's /tmp."""
    command = [sys.executable, "-m", "vswin_jax.serve", f"--checkpoint={workdir}", "--port=0"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "TMPDIR": str(folder)}
    process = subprocess.Popen(
        [*command, *arguments], stderr=subprocess.PIPE, text=True, env=environment
    )
    assert process.stderr is not None
    lines: list[str] = []
    try:
        while not (lines and lines[-1].startswith("serving ")):
            lines.append(process.stderr.readline())
            assert lines[-1], "".join(lines)
        url = re.findall(r"http://\S+", lines[-1])[0]
        # The pipe would be full at some time.
        reader = threading.Thread(target=lines.extend, args=(process.stderr,), daemon=True)
        reader.start()
        yield ServedRun(process, url, lines)
    finally:
        process.kill()
        process.wait()
