"""The ledger of a run: where its seconds go, over all its starts.

Every second between the begin and the end of a start is in one category, so they add up to the
wall clock. `steps` is what a run is for; the time of steps whose results a kill has taken is moved
to `lost` when the run goes on. The time between two starts is nobody's, and of a killed start the
seconds since its last report are not known.
"""

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from vswin_jax.runtime.atomic_write import whole_file

# How people read them, in the order in which they are shown.
CATEGORIES = {
    "steps": "steps",
    "compile": "compiling",
    "data": "waiting for data",
    "evaluation": "evaluating",
    "save": "saving",
    "restart": "starting",
    "lost": "lost steps",
    "other": "other",
}

# A run goes back to one of its newest checkpoints.
_MARKS = 100


class Ledger:
    """Seconds by category. It begins with "restart": whatever comes before the first step."""

    def __init__(
        self,
        *,
        begun: float | None = None,
        compiled: Callable[[], float] = lambda: 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`begun` is when the start began, by `clock`.

        `compiled` gives the seconds spent compiling so far; they are taken out of the category
        that they fall into.
        """
        self.seconds = dict.fromkeys(CATEGORIES, 0.0)
        self.category = "restart"
        self._clock, self._compiled = clock, compiled
        self._since = clock() if begun is None else begun
        self._compiled_before = compiled()
        self._marks: dict[int, float] = {0: 0.0}

    def enter(self, category: str) -> str:
        """From now on the time is of `category`; returns the one before."""
        self.settle()
        before, self.category = self.category, category
        return before

    @contextlib.contextmanager
    def during(self, category: str) -> Iterator[None]:
        """The time in the block is of `category`, but for that of blocks within it."""
        before = self.enter(category)
        try:
            yield
        finally:
            self.enter(before)

    def settle(self) -> None:
        """Counts the time up to now."""
        now, compiled = self._clock(), self._compiled()
        passed = now - self._since
        compiling = min(compiled - self._compiled_before, passed)
        self.seconds["compile"] += compiling
        self.seconds[self.category] += passed - compiling
        self._since, self._compiled_before = now, compiled

    def mark(self, step: int) -> None:
        """The work up to `step` is saved: going on from there loses nothing of it."""
        self.settle()
        self._marks[step] = self.seconds["steps"]
        for old in sorted(self._marks)[1:-_MARKS]:
            del self._marks[old]

    def save(self, path: Path) -> None:
        """Writes the ledger for the starts that follow."""
        self.settle()
        content = {"seconds": self.seconds, "step_seconds_when_saved": self._marks}
        with whole_file(path) as partial:
            partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    def resume(self, path: Path, step: int) -> None:
        """Adds what the starts before have written to `path`; this one goes on from `step`.

        Step 0 is a new beginning: what there was before it is lost.
        """
        if not path.exists():
            return
        saved = json.loads(path.read_text(encoding="utf-8"))
        marks = {int(at): seconds for at, seconds in saved["step_seconds_when_saved"].items()}
        self._marks = {at: seconds for at, seconds in marks.items() if at <= step}
        lost = saved["seconds"]["steps"] - max(self._marks.values())
        for category, seconds in saved["seconds"].items():
            self.seconds[category] += seconds
        self.seconds["steps"] -= lost
        self.seconds["lost"] += lost

    def total(self) -> float:
        """The wall clock of all starts, in seconds."""
        self.settle()
        return sum(self.seconds.values())

    def fractions(self) -> dict[str, float]:
        """The share of each category; they add up to 1."""
        total = max(self.total(), 1e-9)
        return {category: seconds / total for category, seconds in self.seconds.items()}

    def describe(self) -> str:
        """The shares that there are, for people."""
        shares = self.fractions().items()
        return ", ".join(f"{CATEGORIES[name]} {share:.1%}" for name, share in shares if share)
