"""Contenders of train_step.py and inference.py, alive together, which take turns."""

import argparse
import dataclasses
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from contenders import ON_GPU, Contender, ContenderDied
from kept_rows import Row
from model_worker import Work
from throughput_table import line

from vswin_jax.models import create_model
from vswin_jax.models.flops import forward_macs, model_flops
from vswin_jax.runtime.hardware import chip_of


def together(options: argparse.Namespace, works: Sequence[Work]) -> list[Row]:
    """A row for each of the works, whose processes live at the same time and take turns."""
    runs = [_Run(work, options) for work in works]
    for run in runs:
        run.ask("first")
    seconds: dict[_Run, list[float]] = {run: [] for run in runs}
    for _ in range(options.rounds):
        for run in runs:
            seconds[run].append(run.ask("again").get("seconds", 0.0))
    for run in runs:
        run.ask("peak")
        run.close()
    rows = [run.row(seconds[run]) for run in runs]
    for row in rows:
        print(line(row), file=sys.stderr, flush=True)
    return rows


class _Run:
    """A work in its process; once something has failed, nothing more is asked."""

    def __init__(self, work: Work, options: argparse.Namespace) -> None:
        self.work = work
        self.answers: Row = {"error": None, "out_of_memory": False}
        ours = work.contender == "vswin_jax"
        self._process: Contender | None = None
        try:
            self._process = Contender(
                work.name,
                sys.executable if ours else options.torch_python,
                str(Path(__file__).with_name("model_worker.py")),
                {"OMP_NUM_THREADS": str(options.threads)} if work.device == "cpu" else ON_GPU,
                ["--work", json.dumps(dataclasses.asdict(work))],
            )
            self.answers["version"] = self._process.version
        except ContenderDied as error:
            self.answers["error"] = str(error)

    def ask(self, task: str) -> Row:
        """The answer, which is noted; an empty one after a failure."""
        if self.answers["error"]:
            return {}
        try:
            answer = self._process.measure(task)
        except ContenderDied as error:
            answer = {"error": str(error)}
        self.answers |= answer
        return {} if self.answers["error"] else answer

    def close(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.close()

    def row(self, seconds: Sequence[float]) -> Row:
        """All that is known: the work, the answers, and what follows from them."""
        row = dataclasses.asdict(self.work) | {"name": self.work.name} | self.answers
        row.pop("seconds", None)
        if row["error"]:
            return row
        median = statistics.median(seconds)
        flops, chip = flops_of(self.work), chip_of(row["device"])
        row |= {"median_s": median, "min_s": min(seconds), "max_s": max(seconds)}
        row |= {"clips_per_s": self.work.clips / median, "peak_bytes": row.pop("bytes")}
        return row | {"mfu": flops / median / chip.flops if chip else None}


def flops_of(work: Work) -> int:
    """The model's FLOPs of one call; the backward pass has twice those of the forward pass."""
    sizes = {name: getattr(work, name) for name in ("embed_dim", "depths", "num_heads")}
    model, clip = create_model(**sizes), (work.frames, work.size, work.size)
    return work.clips * (
        model_flops(model, clip) if work.training else 2 * forward_macs(model, clip).total
    )
