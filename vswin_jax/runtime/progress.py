"""How far a long piece of work is: how much is done, how fast, and how long the rest will take."""

import time
from collections.abc import Callable

SECONDS = 5.0  # between two lines

Say = Callable[[str], None]


class Progress:
    """Says now and then, as a line of text, how many of `total` things are done."""

    def __init__(
        self, total: int, say: Say, *, things: str = "videos", every: float = SECONDS
    ) -> None:
        self.total = total
        self.done = 0
        self._say, self._things, self._every = say, things, every
        self._start = self._said = time.monotonic()

    def add(self, count: int = 1, note: str = "") -> None:
        """Counts `count` more as done; the line, if one is due, has the `note`."""
        self.done += count
        now = time.monotonic()
        if now - self._said < self._every or not self.done:
            return
        self._said = now
        rate = self.done / (now - self._start)
        left = (self.total - self.done) / rate
        parts = [f"{self.done} of {self.total} {self._things}", note]
        parts += [f"{rate:.1f} {self._things}/s", f"{_duration(left)} left"]
        self._say(", ".join(filter(None, parts)))


def _duration(seconds: float) -> str:
    if seconds < 600:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"
