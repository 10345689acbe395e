"""A clock for tests of code that measures time."""


class FakeClock:
    """A clock that moves only when a test sets `now`, in seconds."""

    def __init__(self, now: float = 100.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now
