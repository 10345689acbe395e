"""Reports of a run: log lines, `metrics.jsonl`, TensorBoard and goodput.

CLU (Common Loop Utils), and TensorFlow which it needs, are imported only when they are used;
without them the log and `metrics.jsonl` remain. In a run of several processes only the first one
writes.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vswin_jax.reporting.goodput import CATEGORIES, GoodputRecorder
from vswin_jax.reporting.metrics_file import MetricsFile
from vswin_jax.runtime.watchdog import SLOW_PHASE_FACTOR, Watchdog

log = logging.getLogger("vswin_jax")

METRICS_FILE = "metrics.jsonl"
GOODPUT_FILE = "goodput.json"
# Seconds between two log lines about goodput.
_GOODPUT_LOG_INTERVAL = 600.0
# Phases that may compile or have no heartbeat for long get a longer watchdog timeout.
_TIMEOUT_FACTORS = {"compile": SLOW_PHASE_FACTOR, "evaluation": SLOW_PHASE_FACTOR}
# Categories whose time counts in the speed of training.
_TRAINING = ("steps", "data")


class MetricWriter:
    """Writes the speed, progress and metrics of one run to the log, a file and TensorBoard.

    Attributes:
      step: the number of completed steps, for the watchdog and the last goodput line.
      ideal_step_seconds: the time of a step with an MFU of 1, or None if it is unknown.
    """

    def __init__(
        self,
        workdir: str | Path,
        *,
        batch_size: int,
        total_steps: int,
        start_step: int = 0,
        pending_evaluation: bool = False,
        tensorboard: bool = True,
        goodput: GoodputRecorder | None = None,
        watchdog: Watchdog | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open the files; `start_step` and `pending_evaluation` are as for `MetricsFile`.

        `batch_size` is global. `goodput` has the time since this start began; the record of earlier
        starts is added to it. `watchdog` is notified of every phase.
        """
        self.step = start_step
        self.ideal_step_seconds: float | None = None
        self._batch_size, self._total_steps, self._clock = batch_size, total_steps, clock
        self._watchdog = watchdog or Watchdog(0.0)
        self._goodput = goodput or GoodputRecorder(clock=clock)
        self._goodput_path = Path(workdir) / GOODPUT_FILE
        self._goodput.resume(self._goodput_path, start_step)
        self._goodput.enter("steps")
        self._goodput_logged_at = clock()
        self._last_step, self._last_seconds = start_step, dict(self._goodput.seconds)
        self._file: MetricsFile | None = None
        self._tensorboard: Any = None
        if jax.process_index() == 0:
            Path(workdir).mkdir(parents=True, exist_ok=True)
            self._file = MetricsFile(
                Path(workdir) / METRICS_FILE, start_step, pending_evaluation=pending_evaluation
            )
            self._tensorboard = _open_tensorboard(str(workdir)) if tensorboard else None

    def __enter__(self) -> "MetricWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def phase(self, category: str) -> Iterator[None]:
        """Count the time of a `with` block as a category of `goodput.CATEGORIES`."""
        previous = self._goodput.enter(category)
        timeout_factor = _TIMEOUT_FACTORS.get(category, 1.0)
        self._watchdog.enter(CATEGORIES[category], self.step, timeout_factor)
        try:
            yield
        finally:
            self._goodput.enter(previous)
            self._watchdog.enter(CATEGORIES[previous], self.step)

    def mark_saved(self, step: int) -> None:
        """Record that the state of `step` is saved; see `GoodputRecorder.mark_saved`."""
        self._goodput.mark_saved(step)
        self._save_goodput()

    def write_train(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write the training metrics after `step` steps, with the speed since the last call.

        `metrics` are numbers on the host: loss, top1 (a fraction), learning_rate, ...
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
        self._log("  ".join(line))
        self._write_goodput(step)

    def write_evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write the metrics of the evaluation after `step` steps."""
        self._write("eval", step, metrics)
        self._log("  ".join([f"evaluation at step {step}", *_describe(metrics)]))

    def write_image(self, name: str, step: int, image: np.ndarray) -> None:
        """Show an image uint8 `[H, W, 3]` in TensorBoard."""
        if self._tensorboard is not None:
            self._tensorboard.write_images(step, {name: image[None]})

    def close(self) -> None:
        """Write the goodput a last time, and close all files."""
        self._log_goodput(self.step)
        self._save_goodput()
        if self._file is not None:
            self._file.close()
        if self._tensorboard is not None:
            self._tensorboard.close()
        self._file = self._tensorboard = None

    def _speed(self, step: int) -> dict[str, float]:
        self._goodput.update()
        spent = {name: self._goodput.seconds[name] - self._last_seconds[name] for name in _TRAINING}
        seconds = max(sum(spent.values()), 1e-9)
        steps = step - self._last_step
        speed = {
            "steps_per_second": steps / seconds,
            "clips_per_second": steps * self._batch_size / seconds,
            "data_wait": min(spent["data"] / seconds, 1.0),
        }
        if self.ideal_step_seconds is not None:
            speed["mfu"] = self.ideal_step_seconds * steps / seconds
        self._last_step, self._last_seconds = step, dict(self._goodput.seconds)
        return speed

    def _write_goodput(self, step: int) -> None:
        if self._tensorboard is not None:
            shares = {f"goodput/{name}": share for name, share in self._goodput.fractions().items()}
            self._tensorboard.write_scalars(step, shares)
        self._save_goodput()
        if self._clock() - self._goodput_logged_at >= _GOODPUT_LOG_INTERVAL:
            self._log_goodput(step)

    def _log_goodput(self, step: int) -> None:
        self._goodput_logged_at = self._clock()
        if self._file is not None:
            self._file.write("goodput", step, self._goodput.fractions())
        run_time = format_time(self._goodput.total_seconds())
        self._log(f"step {step} after {run_time}: {self._goodput.describe()}")

    def _save_goodput(self) -> None:
        if self._file is not None:
            self._goodput.save(self._goodput_path)

    def _write(self, kind: str, step: int, metrics: Mapping[str, float]) -> None:
        if self._file is not None:
            self._file.write(kind, step, metrics)
        if self._tensorboard is not None:
            named = {f"{kind}/{name}": float(value) for name, value in metrics.items()}
            self._tensorboard.write_scalars(step, named)

    def _log(self, line: str) -> None:
        if jax.process_index() == 0:
            log.info("%s", line)


def _describe(metrics: Mapping[str, float]) -> list[str]:
    """Format the metrics that are part of a log line; the others are in the files alone."""
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
    """Format a duration with its two largest units: 7s, 3m20s, 1h05m, 2d03h."""
    whole = round(seconds)
    for unit, lower_unit, size, lower_size in (
        ("d", "h", 86400, 3600),
        ("h", "m", 3600, 60),
        ("m", "s", 60, 1),
    ):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // lower_size:02d}{lower_unit}"
    return f"{whole}s"


def _open_tensorboard(workdir: str) -> Any:
    try:
        from clu.metric_writers import SummaryWriter
    except ImportError as error:
        log.info("TensorBoard is off (%s); metrics.jsonl has the same numbers.", error)
        return None
    return SummaryWriter(workdir)


def log_parameters(params: Any) -> None:
    """Log the shape and sharding of each parameter, and the total; without CLU only the total."""
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
