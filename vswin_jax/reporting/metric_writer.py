"""Reports of a run: log lines, `metrics.jsonl`, TensorBoard and goodput.

Without CLU (Common Loop Utils), and TensorFlow which it needs, the log and `metrics.jsonl` remain.
In a run of several processes only the first one writes.
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
from vswin_jax.reporting.metrics_file import MetricsFile, write_entry_once
from vswin_jax.reporting.tensorboard import TensorBoard
from vswin_jax.runtime.watchdog import SLOW_PHASE_FACTOR, Watchdog

log = logging.getLogger("vswin_jax")

METRICS_FILE = "metrics.jsonl"
GOODPUT_FILE = "goodput.json"
# The list of the held-out videos that the latest evaluation has left out.
BAD_HELD_OUT = "bad_held_out_videos.csv"
# Seconds without a log line after which the next step has one.
_LOG_INTERVAL = 30.0
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
        quick_views: str = "",
        tensorboard: bool = True,
        goodput: GoodputRecorder | None = None,
        watchdog: Watchdog | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open the files; `start_step` and `pending_evaluation` are as for `MetricsFile`.

        `batch_size` is global. `quick_views` describes what an evaluation sees of a video.
        `goodput` has the time since this start began; the record of earlier starts is added to it.
        `watchdog` is notified of every phase.
        """
        self.step = start_step
        self.ideal_step_seconds: float | None = None
        self._batch_size, self._total_steps, self._clock = batch_size, total_steps, clock
        self._quick_views = f" ({quick_views})" if quick_views else ""
        self._watchdog = watchdog or Watchdog(0.0)
        self._goodput = goodput or GoodputRecorder(clock=clock)
        self._goodput_path = Path(workdir) / GOODPUT_FILE
        self._goodput.resume(self._goodput_path, start_step)
        self._goodput.enter("steps")
        self._logged_at = clock()
        self._last_step, self._last_seconds = start_step, dict(self._goodput.seconds)
        self._file: MetricsFile | None = None
        self._tensorboard: TensorBoard | None = None
        if jax.process_index() == 0:
            Path(workdir).mkdir(parents=True, exist_ok=True)
            self._file = MetricsFile(
                Path(workdir) / METRICS_FILE, start_step, pending_evaluation=pending_evaluation
            )
            self._tensorboard = TensorBoard(str(workdir)) if tensorboard else None

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
        self._log_train(step, metrics, speed)
        self._last_step, self._last_seconds = step, dict(self._goodput.seconds)
        self._write_goodput(step)

    def log_if_quiet(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log the training metrics if the last line is long ago; the files are not written to.

        They must not depend on the clock.
        """
        if self._clock() - self._logged_at >= _LOG_INTERVAL:
            self._log_train(step, metrics, self._speed(step))

    def _log_train(
        self, step: int, metrics: Mapping[str, float], speed: Mapping[str, float]
    ) -> None:
        self._logged_at = self._clock()
        line = [f"step {step}/{self._total_steps}", *_describe(metrics)]
        line.append(f"{speed['clips_per_second']:.4g} clips/s")
        if "mfu" in speed:
            line.append(f"MFU {speed['mfu']:.1%}")
        line.append(f"waiting for data {speed['data_wait']:.0%}")
        steps_left = max(self._total_steps - step, 0)
        if speed["steps_per_second"]:
            line.append(f"time left {format_time(steps_left / speed['steps_per_second'])}")
        self._log("  ".join(line))

    def write_evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write the metrics of the quick evaluation after `step` steps."""
        self._write("quick", step, metrics)
        line = [f"quick evaluation at step {step}{self._quick_views}", *_describe(metrics)]
        self._log("  ".join([*line, *_describe_omitted(metrics)]))

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
        return speed

    def _write_goodput(self, step: int) -> None:
        if self._tensorboard is not None:
            shares = {f"goodput/{name}": share for name, share in self._goodput.fractions().items()}
            self._tensorboard.write_scalars(step, shares)
        self._save_goodput()

    def _log_goodput(self, step: int) -> None:
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


def _describe_omitted(metrics: Mapping[str, float]) -> list[str]:
    omitted, videos = (int(metrics.get(name, 0)) for name in ("omitted", "videos"))
    if not omitted:
        return []
    return [f"on {videos} of {videos + omitted} videos, {omitted} unreadable: see {BAD_HELD_OUT}"]


def write_final(workdir: str | Path, step: int, metrics: Mapping[str, float]) -> None:
    """Write the score of a finished run to `metrics.jsonl` and TensorBoard, once for each step."""
    is_new = write_entry_once(Path(workdir) / METRICS_FILE, "final", step, metrics)
    tensorboard = TensorBoard(str(workdir)) if is_new else None
    if tensorboard is not None:
        named = {f"final/{name}": float(value) for name, value in metrics.items()}
        tensorboard.write_scalars(step, named)
        tensorboard.close()


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


def log_parameters(params: Any) -> None:
    """Log the number and the size of the parameters, which may be abstract."""
    if jax.process_index() != 0:
        return
    leaves = jax.tree.leaves(params)
    megabytes = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves) / 1e6
    total = sum(leaf.size for leaf in leaves)
    log.info("%s parameters in %d tensors, %.1f MB", f"{total:,}", len(leaves), megabytes)


def log_parameter_table(params: Any) -> None:
    """Log the shape and the sharding of each parameter; they may be abstract."""
    if jax.process_index() != 0:
        return
    try:
        from clu import parameter_overview
    except ImportError as error:
        log.info("the parameters are not listed, since that needs CLU: %s", error)
        return
    overview = parameter_overview.get_parameter_overview(params, include_stats="sharding")
    log.info("\n%s", overview)
