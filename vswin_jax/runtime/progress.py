"""Progress lines of a long task: the share that is done, the rate and the time left."""

import time
from collections.abc import Callable

INTERVAL = 5.0  # seconds between two lines

WriteLine = Callable[[str], None]


class RateMeter:
    """Measures the rate of a task since its creation, at most once in `interval` seconds."""

    def __init__(self, interval: float = INTERVAL) -> None:
        self._interval = interval
        self._start = self._last = time.monotonic()

    def rate_if_due(self, done: float) -> float | None:
        """Return the rate, `done` per second, or None if the interval has not passed."""
        now = time.monotonic()
        if now - self._last < self._interval:
            return None
        self._last = now
        return done / max(now - self._start, 1e-9)


class Progress:
    """Counts the finished items of a task and writes a line about them every few seconds.

    Args:
      total: the number of items.
      write_line: gets each line.
      unit: the name of the items, in the plural.
      interval: the minimum number of seconds between two lines.
    """

    def __init__(
        self,
        total: int,
        write_line: WriteLine,
        *,
        unit: str = "videos",
        interval: float = INTERVAL,
    ) -> None:
        self.total = total
        self.done = 0
        self._write_line = write_line
        self._unit = unit
        self._meter = RateMeter(interval)

    def add(self, count: int = 1, note: str = "") -> None:
        """Count `count` more items as done; a line, if one is due, includes the `note`."""
        self.done += count
        rate = self._meter.rate_if_due(self.done) if self.done else None
        if rate is None:
            return
        left = (self.total - self.done) / rate
        parts = [f"{self.done} of {self.total} {self._unit}", note]
        parts += [f"{rate:.1f} {self._unit}/s", f"{_duration(left)} left"]
        self._write_line(", ".join(filter(None, parts)))


def _duration(seconds: float) -> str:
    if seconds < 600:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"
