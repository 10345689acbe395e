"""Goodput of a run: the share of its time that is spent in training steps, over all its starts.

A start is one execution of the training command; a run that resumes has several. Every second of a
start belongs to one category, so the categories add up to the wall-clock time. Time in `steps` is
goodput, the rest is badput. When a run resumes, the time of steps whose results were lost in a kill
moves from `steps` to `lost`. The time between two starts is not counted, and neither are the
seconds between the last save of the record and a kill.
"""

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from vswin_jax.runtime.atomic_write import write_json

GOODPUT = "steps"
# Every category, by its key in files and TensorBoard, with its name in log lines.
CATEGORIES = {
    GOODPUT: "training steps",
    "compile": "compilation",
    "data": "waiting for data",
    "evaluation": "evaluation",
    "save": "checkpointing",
    "restart": "startup",
    "lost": "lost steps",
    "other": "other",
}

# Saved steps to remember: a run resumes from one of its newest checkpoints.
_MAX_SAVED_STEPS = 100


class GoodputRecorder:
    """Records seconds by category, at first as "restart": all that precedes the first step."""

    def __init__(
        self,
        *,
        start_time: float | None = None,
        compile_seconds: Callable[[], float] = lambda: 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin to count at `start_time`, by `clock`; the default is now.

        `compile_seconds` returns the seconds spent compiling so far; they are moved to "compile"
        from the category in which they pass.
        """
        self.seconds = dict.fromkeys(CATEGORIES, 0.0)
        self.category = "restart"
        self._clock, self._compile_seconds = clock, compile_seconds
        self._updated_at = clock() if start_time is None else start_time
        self._compiled_before = compile_seconds()
        # Seconds of training steps at the time when each step was saved.
        self._saved_steps: dict[int, float] = {0: 0.0}

    def enter(self, category: str) -> str:
        """Count the time from now on as `category`; return the previous category."""
        self.update()
        previous, self.category = self.category, category
        return previous

    @contextlib.contextmanager
    def phase(self, category: str) -> Iterator[None]:
        """Count the time of a `with` block as `category`, except that of blocks within it."""
        previous = self.enter(category)
        try:
            yield
        finally:
            self.enter(previous)

    def update(self) -> None:
        """Count the time up to now."""
        now, compiled = self._clock(), self._compile_seconds()
        passed = now - self._updated_at
        # A background thread may have compiled for longer than the time that has passed.
        compiling = min(compiled - self._compiled_before, passed)
        self.seconds["compile"] += compiling
        self.seconds[self.category] += passed - compiling
        self._updated_at, self._compiled_before = now, compiled

    def mark_saved(self, step: int) -> None:
        """Record that the state of `step` is saved, so that its work survives a kill."""
        self.update()
        self._saved_steps[step] = self.seconds[GOODPUT]
        for old in sorted(self._saved_steps)[1:-_MAX_SAVED_STEPS]:
            del self._saved_steps[old]

    def save(self, path: Path) -> None:
        """Write the record, for later starts of the run."""
        self.update()
        content = {"seconds": self.seconds, "step_seconds_when_saved": self._saved_steps}
        write_json(path, content)

    def resume(self, path: Path, step: int) -> None:
        """Add the record of earlier starts, if `path` exists, for a start that resumes at `step`.

        Step 0 is a new run in the same directory: all earlier steps are lost.
        """
        if not path.exists():
            return
        saved = json.loads(path.read_text(encoding="utf-8"))
        saved_steps = {int(at): seconds for at, seconds in saved["step_seconds_when_saved"].items()}
        self._saved_steps = {at: seconds for at, seconds in saved_steps.items() if at <= step}
        lost = saved["seconds"][GOODPUT] - max(self._saved_steps.values())
        for category, seconds in saved["seconds"].items():
            self.seconds[category] += seconds
        self.seconds[GOODPUT] -= lost
        self.seconds["lost"] += lost

    def total_seconds(self) -> float:
        """Return the wall-clock time of all starts."""
        self.update()
        return sum(self.seconds.values())

    def fractions(self) -> dict[str, float]:
        """Return the share of each category in the total; they add up to 1."""
        total = max(self.total_seconds(), 1e-9)
        return {category: seconds / total for category, seconds in self.seconds.items()}

    def describe(self) -> str:
        """Format the goodput, and the badput by category, for a log line."""
        shares = self.fractions()
        goodput = f"goodput {shares.pop(GOODPUT):.1%}"
        badput = [f"{CATEGORIES[name]} {share:.1%}" for name, share in shares.items() if share]
        return f"{goodput}, badput: {', '.join(badput)}" if badput else goodput
