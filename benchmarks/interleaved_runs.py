"""Interleaved measurement of train_step.py and inference.py: several worker processes at a time."""

import argparse
import dataclasses
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from model_worker import Workload
from result_cache import Row
from throughput_table import format_row
from worker_process import GPU_ENVIRONMENT, WorkerDied, WorkerProcess

from vswin_jax.models import create_model
from vswin_jax.models.flops import forward_macs, model_flops
from vswin_jax.runtime.hardware import chip_of


def measure_interleaved(options: argparse.Namespace, workloads: Sequence[Workload]) -> list[Row]:
    """Measure the workloads in rounds of one measurement each; return a row per workload."""
    runs = [_WorkloadRun(workload, options) for workload in workloads]
    for run in runs:
        run.request("build")
    seconds: dict[_WorkloadRun, list[float]] = {run: [] for run in runs}
    for _ in range(options.rounds):
        for run in runs:
            seconds[run].append(run.request("measure").get("seconds", 0.0))
    for run in runs:
        run.request("peak_memory")
        run.close()
    rows = [run.row(seconds[run]) for run in runs]
    for row in rows:
        print(format_row(row), file=sys.stderr, flush=True)
    return rows


class _WorkloadRun:
    """A workload and its worker process; after a failure no more requests are sent."""

    def __init__(self, workload: Workload, options: argparse.Namespace) -> None:
        self.workload = workload
        self.replies: Row = {"error": None, "out_of_memory": False}
        self._worker: WorkerProcess | None = None
        on_cpu = workload.device == "cpu"
        try:
            self._worker = WorkerProcess(
                name=workload.name,
                python=sys.executable if workload.is_ours else options.torch_python,
                script=str(Path(__file__).with_name("model_worker.py")),
                environment={"OMP_NUM_THREADS": str(options.threads)}
                if on_cpu
                else GPU_ENVIRONMENT,
                arguments=["--work", json.dumps(dataclasses.asdict(workload))],
            )
            self.replies["version"] = self._worker.version
        except WorkerDied as error:
            self.replies["error"] = str(error)

    def request(self, task: str) -> Row:
        """Return the worker's reply, which is recorded; an empty reply after a failure."""
        if self.replies["error"]:
            return {}
        try:
            reply = self._worker.request(task)
        except WorkerDied as error:
            reply = {"error": str(error)}
        self.replies |= reply
        return {} if self.replies["error"] else reply

    def close(self) -> None:
        """End the process."""
        if self._worker is not None:
            self._worker.close()

    def row(self, seconds: Sequence[float]) -> Row:
        """Return the workload, the replies, and the statistics of `seconds`."""
        row = dataclasses.asdict(self.workload) | {"name": self.workload.name} | self.replies
        row.pop("seconds", None)
        if row["error"]:
            return row
        median = statistics.median(seconds)
        flops, chip = flops_per_call(self.workload), chip_of(row["device"])
        row |= {"median_s": median, "min_s": min(seconds), "max_s": max(seconds)}
        row |= {"clips_per_s": self.workload.clips / median, "peak_bytes": row.pop("bytes")}
        return row | {"mfu": flops / median / chip.flops if chip else None}


def flops_per_call(workload: Workload) -> int:
    """Return the model's FLOPs of one call: a forward pass, or a training step."""
    sizes = {name: getattr(workload, name) for name in ("embed_dim", "depths", "num_heads")}
    model, clip = create_model(**sizes), (workload.frames, workload.size, workload.size)
    return workload.clips * (
        model_flops(model, clip) if workload.training else 2 * forward_macs(model, clip).total
    )
