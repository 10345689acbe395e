"""Progress lines and rates, with an injected clock."""

from collections.abc import Iterable
from types import SimpleNamespace

import pytest

from vswin_jax.runtime import progress
from vswin_jax.runtime.progress import Progress, RateMeter


def _set_clock(monkeypatch: pytest.MonkeyPatch, seconds: Iterable[float]) -> None:
    clock = iter(seconds)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(clock)))


@pytest.mark.parametrize(("total", "left"), [(100, "360 s"), (500, "33 min"), (2000, "2 h 13 min")])
def test_progress_has_rate_and_time_left(
    total: int, left: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _set_clock(monkeypatch, (0.0, 4.0, 40.0, 41.0))
    lines: list[str] = []
    work = Progress(total, lines.append, unit="clips")
    for note in ("", "2 bad", ""):
        work.add(5, note)
    # Ten clips in 40 seconds are 0.25 a second; no line is due after 4 and 41 seconds.
    assert lines == [f"10 of {total} clips, 2 bad, 0.2 clips/s, {left} left"]


def test_rates_are_measured_from_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    _set_clock(monkeypatch, (0.0, 1.0, 2.0, 3.5, 4.0))
    meter = RateMeter(interval=2.0)
    assert [meter.rate_if_due(done) for done in (10, 20, 30, 40)] == [None, 10.0, None, 10.0]
