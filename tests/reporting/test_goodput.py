import json
from pathlib import Path

import pytest

from vswin_jax.reporting.goodput import CATEGORIES, Ledger


class Clock:
    """A clock that stands still until it is told to go on."""

    def __init__(self, now: float = 100.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def ledger_of(spent: dict[str, float], clock: Clock) -> Ledger:
    ledger = Ledger(clock=clock)
    for category, seconds in spent.items():
        with ledger.during(category):
            clock.now += seconds
    return ledger


def test_every_second_is_in_one_category() -> None:
    clock = Clock()
    ledger = Ledger(begun=clock.now - 30.0, clock=clock)
    clock.now += 10.0
    ledger.enter("steps")
    clock.now += 50.0
    with ledger.during("evaluation"):
        clock.now += 5.0
        with ledger.during("save"):
            clock.now += 2.0
        clock.now += 1.0
    clock.now += 2.0
    assert ledger.total() == 100.0
    shares = {"restart": 0.4, "steps": 0.52, "evaluation": 0.06, "save": 0.02}
    assert ledger.fractions() == dict.fromkeys(CATEGORIES, 0.0) | shares
    assert ledger.describe() == "steps 52.0%, evaluating 6.0%, saving 2.0%, starting 40.0%"


def test_a_block_that_fails_ends_its_category() -> None:
    clock = Clock()
    ledger = Ledger(clock=clock)

    def fail() -> None:
        with ledger.during("save"):
            clock.now += 3.0
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fail()
    clock.now += 4.0
    ledger.settle()
    assert (ledger.seconds["save"], ledger.seconds["restart"]) == (3.0, 4.0)


def test_compiling_is_taken_out_of_what_it_falls_into() -> None:
    """30 s of the evaluation go to a compiler; more than passed, of another thread, cannot."""
    clock, compiled = Clock(), Clock(7.0)
    ledger = Ledger(compiled=compiled, clock=clock)
    with ledger.during("evaluation"):
        clock.now += 40.0
        compiled.now += 30.0
    with ledger.during("data"):
        clock.now += 1.0
        compiled.now += 5.0
    assert ledger.seconds["compile"] == 31.0
    assert (ledger.seconds["evaluation"], ledger.seconds["data"]) == (10.0, 0.0)
    assert ledger.total() == 41.0


def test_what_a_kill_takes_is_lost(tmp_path: Path) -> None:
    """Saved after 60 s of steps (step 6); at the kill there were 25 s more."""
    path, clock = tmp_path / "goodput.json", Clock()
    first = ledger_of({"restart": 5.0, "compile": 10.0, "steps": 20.0}, clock)
    first.mark(2)
    with first.during("steps"):
        clock.now += 40.0
    first.mark(6)
    with first.during("steps"):
        clock.now += 25.0
    first.save(path)

    second = Ledger(clock=clock)
    second.resume(path, 6)
    clock.now += 3.0
    assert second.total() == 103.0
    assert {name: value for name, value in second.seconds.items() if value} == {
        "steps": 60.0,
        "compile": 10.0,
        "restart": 8.0,
        "lost": 25.0,
    }
    # The newest checkpoint turns out to be damaged: all after step 2 is lost too.
    second.save(path)
    third = Ledger(clock=clock)
    third.resume(path, 2)
    assert (third.seconds["steps"], third.seconds["lost"]) == (20.0, 65.0)
    third.save(path)
    # The checkpoints are deleted: nothing of it is left.
    fourth = Ledger(clock=clock)
    fourth.resume(path, 0)
    assert (fourth.seconds["steps"], fourth.seconds["lost"], fourth.total()) == (0.0, 85.0, 103.0)


def test_a_run_that_stopped_in_good_order_has_lost_nothing(tmp_path: Path) -> None:
    path, clock = tmp_path / "goodput.json", Clock()
    for start, end in ((0, 5), (5, 9)):
        ledger = Ledger(clock=clock)
        ledger.resume(path, start)
        with ledger.during("steps"):
            clock.now += 10.0
        ledger.mark(end)
        ledger.save(path)
    assert (ledger.seconds["steps"], ledger.seconds["lost"]) == (20.0, 0.0)


def test_a_long_run_keeps_a_short_file(tmp_path: Path) -> None:
    path, clock = tmp_path / "goodput.json", Clock()
    ledger = Ledger(clock=clock)
    for step in range(1, 1001):
        with ledger.during("steps"):
            clock.now += 1.0
        ledger.mark(step)
    ledger.save(path)
    marks = json.loads(path.read_text())["step_seconds_when_saved"]
    assert len(marks) == 101
    assert (marks["0"], marks["1000"], "900" in marks) == (0.0, 1000.0, False)
    assert [child.name for child in tmp_path.iterdir()] == ["goodput.json"]
