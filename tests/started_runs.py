"""Waits for the steps of a run that is another process."""

import subprocess
import time
from pathlib import Path

from vswin_jax.reporting.metrics_file import read_metrics

PATIENCE = 400.0  # seconds


def wait_for_step(process: "subprocess.Popen[str]", workdir: Path, step: int) -> None:
    """Wait until the metrics in `workdir` have `step`; the process must not end before."""
    deadline = time.monotonic() + PATIENCE
    while max((e["step"] for e in read_metrics(workdir / "metrics.jsonl")), default=0) < step:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)
