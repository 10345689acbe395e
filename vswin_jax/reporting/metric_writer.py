"""What a run tells the world: a log line per report, `metrics.jsonl`, and TensorBoard.

CLU, and TensorFlow under it, are imported only when they are used; without them the log and
`metrics.jsonl` remain. In a run of many processes only the first one writes.
"""

import contextlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vswin_jax.reporting.goodput import CATEGORIES, Ledger
from vswin_jax.runtime.atomic_write import whole_file
from vswin_jax.runtime.watchdog import PATIENT, Watchdog

log = logging.getLogger("vswin_jax")

GOODPUT = "goodput.json"
# How often the log has the whole ledger.
_LEDGER_SECONDS = 600.0
# What says nothing for long, or may compile.
_PATIENCE = {"compile": PATIENT, "evaluation": PATIENT}
# What counts as training time in the speed of steps.
_TRAINING = ("steps", "data")


class MetricsFile:
    """`metrics.jsonl`: one JSON object per line, floats written so that they read back exactly.

    A value that is not finite is written as the string "nan", "inf" or "-inf" (which `float`
    reads), because JSON has no number for it.
    """

    def __init__(self, path: Path, start_step: int = 0, *, evaluates_first: bool = False) -> None:
        """Opens `path` and drops what a run that is resumed at `start_step` will write again.

        With `evaluates_first` it begins with the evaluation of that step.
        """
        _truncate(path, start_step, evaluates_first)
        self._file = path.open("a", encoding="utf-8")

    def write(self, kind: str, step: int, metrics: Mapping[str, float]) -> None:
        """Appends a line and hands it to the operating system, so that a kill cannot lose it."""
        values = {name: _json_number(value) for name, value in metrics.items()}
        entry = {"kind": kind, "step": int(step), **values}
        self._file.write(json.dumps(entry, allow_nan=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def _json_number(value: float) -> float | int | str:
    number = value if isinstance(value, int) else float(value)
    return number if math.isfinite(number) else repr(number)


def read_metrics(path: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """The entries of a metrics file, of one `kind` if given; a line cut by a kill is left out."""
    entries = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        with contextlib.suppress(json.JSONDecodeError):
            entries.append(json.loads(line))
    return [entry for entry in entries if kind in (None, entry["kind"])]


def _truncate(path: Path, step: int, evaluates_first: bool) -> None:
    last_eval = step - 1 if evaluates_first else step
    kept = [
        entry
        for entry in read_metrics(path)
        if entry["step"] <= (last_eval if entry["kind"] == "eval" else step)
    ]
    with whole_file(path) as partial:
        partial.write_text("".join(json.dumps(entry) + "\n" for entry in kept), encoding="utf-8")


class Telemetry:
    """Reports of one run: speed, progress and metrics, to the log, a file and TensorBoard."""

    def __init__(
        self,
        workdir: str | Path,
        *,
        batch_size: int,
        total_steps: int,
        start_step: int = 0,
        evaluates_first: bool = False,
        tensorboard: bool = True,
        ledger: Ledger | None = None,
        dog: Watchdog | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`start_step` and `evaluates_first` are as for `MetricsFile`; `batch_size` is global.

        `ledger` has the time since this start began, and gets that of the starts before; `dog` is
        told what goes on.
        """
        self._batch_size, self._total_steps, self._clock = batch_size, total_steps, clock
        self._dog, self.step = dog or Watchdog(0.0), start_step
        # Of a step whose MFU is 1; None where it is not known.
        self.ideal_step_seconds: float | None = None
        self._ledger = ledger or Ledger(clock=clock)
        self._ledger_path = Path(workdir) / GOODPUT
        self._ledger.resume(self._ledger_path, start_step)
        self._ledger.enter("steps")
        self._last_step, self._last_spent = start_step, dict(self._ledger.seconds)
        self._ledger_said = clock()
        self._file: MetricsFile | None = None
        self._tensorboard: Any = None
        if jax.process_index() == 0:
            Path(workdir).mkdir(parents=True, exist_ok=True)
            self._file = MetricsFile(
                Path(workdir) / "metrics.jsonl", start_step, evaluates_first=evaluates_first
            )
            self._tensorboard = _open_tensorboard(str(workdir)) if tensorboard else None

    def __enter__(self) -> "Telemetry":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def during(self, category: str) -> Iterator[None]:
        """Around a phase of the run: the time in it is of `category`, see `goodput.CATEGORIES`."""
        before = self._ledger.enter(category)
        self._dog.enter(CATEGORIES[category], self.step, _PATIENCE.get(category, 1.0))
        try:
            yield
        finally:
            self._ledger.enter(before)
            self._dog.enter(CATEGORIES[before], self.step)

    def saved(self, step: int) -> None:
        """The state of `step` is safe: a run that goes on from there has lost nothing of it."""
        self._ledger.mark(step)
        self._save_ledger()

    def train(self, step: int, metrics: Mapping[str, float]) -> None:
        """Reports training metrics after `step` steps, with the speed since the last report.

        `metrics` are numbers already on the host: loss, top1 (a fraction), learning_rate, ...
        """
        speed = self._speed(step)
        self._write("train", step, {**metrics, **speed})
        line = [f"step {step}/{self._total_steps}", *_describe(metrics)]
        line.append(f"{speed['clips_per_second']:.4g} clips/s")
        if "mfu" in speed:
            line.append(f"MFU {speed['mfu']:.1%}")
        line.append(f"waiting for data {speed['data_wait']:.0%}")
        steps_left = max(self._total_steps - step, 0)
        if speed["steps_per_second"]:
            line.append(f"time left {format_time(steps_left / speed['steps_per_second'])}")
        self._log(line)
        self._report_ledger(step)

    def evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Reports the metrics of an evaluation made after `step` steps."""
        self._write("eval", step, metrics)
        self._log([f"evaluation at step {step}", *_describe(metrics)])

    def picture(self, name: str, step: int, image: np.ndarray) -> None:
        """Shows uint8 `[H, W, 3]` in TensorBoard, beside the metrics of `step`."""
        if self._tensorboard is not None:
            self._tensorboard.write_images(step, {name: image[None]})

    def close(self) -> None:
        """The last of the ledger; flushes and closes everything that was opened."""
        self._say_ledger(self.step)
        self._save_ledger()
        if self._file is not None:
            self._file.close()
        if self._tensorboard is not None:
            self._tensorboard.close()
        self._file = self._tensorboard = None

    def _speed(self, step: int) -> dict[str, float]:
        self._ledger.settle()
        spent = {name: self._ledger.seconds[name] - self._last_spent[name] for name in _TRAINING}
        seconds = max(sum(spent.values()), 1e-9)
        steps = step - self._last_step
        speed = {
            "steps_per_second": steps / seconds,
            "clips_per_second": steps * self._batch_size / seconds,
            "data_wait": min(spent["data"] / seconds, 1.0),
        }
        if self.ideal_step_seconds is not None:
            speed["mfu"] = self.ideal_step_seconds * steps / seconds
        self._last_step, self._last_spent = step, dict(self._ledger.seconds)
        return speed

    def _report_ledger(self, step: int) -> None:
        if self._tensorboard is not None:
            shares = {f"goodput/{name}": share for name, share in self._ledger.fractions().items()}
            self._tensorboard.write_scalars(step, shares)
        self._save_ledger()
        if self._clock() - self._ledger_said >= _LEDGER_SECONDS:
            self._say_ledger(step)

    def _say_ledger(self, step: int) -> None:
        self._ledger_said = self._clock()
        if self._file is not None:
            self._file.write("goodput", step, self._ledger.fractions())
        time_spent = format_time(self._ledger.total())
        self._log([f"goodput of {time_spent} at step {step}: {self._ledger.describe()}"])

    def _save_ledger(self) -> None:
        if self._file is not None:
            self._ledger.save(self._ledger_path)

    def _write(self, kind: str, step: int, metrics: Mapping[str, float]) -> None:
        if self._file is not None:
            self._file.write(kind, step, metrics)
        if self._tensorboard is not None:
            named = {f"{kind}/{name}": float(value) for name, value in metrics.items()}
            self._tensorboard.write_scalars(step, named)

    def _log(self, parts: list[str]) -> None:
        if jax.process_index() == 0:
            log.info("%s", "  ".join(parts))


def _describe(metrics: Mapping[str, float]) -> list[str]:
    """The metrics that belong in a log line; the others are only in the files."""
    formats = {
        "loss": "loss {:.4f}",
        "top1": "top-1 {:.1%}",
        "top5": "top-5 {:.1%}",
        "mean_class_accuracy": "mean class {:.1%}",
        "mAP": "mAP {:.1%}",
        "hit1": "hit@1 {:.1%}",
        "learning_rate": "lr {:.3g}",
        "skipped_total": "skipped {:.0f}",
    }
    shown = {name: text for name, text in formats.items() if name in metrics}
    if not metrics.get("skipped_total"):
        shown.pop("skipped_total", None)
    return [text.format(float(metrics[name])) for name, text in shown.items()]


def format_time(seconds: float) -> str:
    """A duration for people: 7s, 3m20s, 1h05m, 2d03h."""
    whole = round(seconds)
    for unit, lower, size, part in (
        ("d", "h", 86400, 3600),
        ("h", "m", 3600, 60),
        ("m", "s", 60, 1),
    ):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // part:02d}{lower}"
    return f"{whole}s"


def _open_tensorboard(workdir: str) -> Any:
    try:
        from clu.metric_writers import SummaryWriter
    except ImportError as error:
        log.info("TensorBoard is off (%s); metrics.jsonl has the same numbers.", error)
        return None
    return SummaryWriter(workdir)


def log_parameters(params: Any) -> None:
    """Logs each parameter's shape and sharding, and the total; without CLU only the total."""
    if jax.process_index() != 0:
        return
    leaves = jax.tree.leaves(params)
    megabytes = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves) / 1e6
    with contextlib.suppress(ImportError):
        from clu import parameter_overview

        overview = parameter_overview.get_parameter_overview(params, include_stats="sharding")
        log.info("\n%s", overview)
    total = sum(leaf.size for leaf in leaves)
    log.info("%s parameters in %d tensors, %.1f MB", f"{total:,}", len(leaves), megabytes)
