import json
from pathlib import Path

import pytest
from fake_clock import FakeClock

from vswin_jax.reporting.goodput import CATEGORIES, GoodputRecorder


def recorder_of(spent: dict[str, float], clock: FakeClock) -> GoodputRecorder:
    recorder = GoodputRecorder(clock=clock)
    for category, seconds in spent.items():
        with recorder.phase(category):
            clock.now += seconds
    return recorder


def test_every_second_is_in_one_category() -> None:
    clock = FakeClock()
    recorder = GoodputRecorder(start_time=clock.now - 30.0, clock=clock)
    clock.now += 10.0
    recorder.enter("steps")
    clock.now += 50.0
    with recorder.phase("evaluation"):
        clock.now += 5.0
        with recorder.phase("save"):
            clock.now += 2.0
        clock.now += 1.0
    clock.now += 2.0
    assert recorder.total_seconds() == 100.0
    shares = {"restart": 0.4, "steps": 0.52, "evaluation": 0.06, "save": 0.02}
    assert recorder.fractions() == dict.fromkeys(CATEGORIES, 0.0) | shares
    assert recorder.describe() == (
        "goodput 52.0%, badput: evaluation 6.0%, checkpointing 2.0%, startup 40.0%"
    )


def test_a_phase_that_raises_ends() -> None:
    clock = FakeClock()
    recorder = GoodputRecorder(clock=clock)

    def fail() -> None:
        with recorder.phase("save"):
            clock.now += 3.0
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fail()
    clock.now += 4.0
    recorder.update()
    assert (recorder.seconds["save"], recorder.seconds["restart"]) == (3.0, 4.0)


def test_compile_time_is_moved_from_the_category_it_passes_in() -> None:
    """Compile for 30 s of an evaluation, then in another thread for longer than has passed."""
    clock, compiled = FakeClock(), FakeClock(7.0)
    recorder = GoodputRecorder(compile_seconds=compiled, clock=clock)
    with recorder.phase("evaluation"):
        clock.now += 40.0
        compiled.now += 30.0
    with recorder.phase("data"):
        clock.now += 1.0
        compiled.now += 5.0
    assert recorder.seconds["compile"] == 31.0
    assert (recorder.seconds["evaluation"], recorder.seconds["data"]) == (10.0, 0.0)
    assert recorder.total_seconds() == 41.0


def test_steps_after_the_last_save_are_lost_by_a_kill(tmp_path: Path) -> None:
    """Save after 60 s of steps (step 6), and kill the run 25 s later."""
    path, clock = tmp_path / "goodput.json", FakeClock()
    first = recorder_of({"restart": 5.0, "compile": 10.0, "steps": 20.0}, clock)
    first.mark_saved(2)
    with first.phase("steps"):
        clock.now += 40.0
    first.mark_saved(6)
    with first.phase("steps"):
        clock.now += 25.0
    first.save(path)

    second = GoodputRecorder(clock=clock)
    second.resume(path, 6)
    clock.now += 3.0
    assert second.total_seconds() == 103.0
    assert {name: value for name, value in second.seconds.items() if value} == {
        "steps": 60.0,
        "compile": 10.0,
        "restart": 8.0,
        "lost": 25.0,
    }
    # The newest checkpoint is damaged, so all work after step 2 is lost too.
    second.save(path)
    third = GoodputRecorder(clock=clock)
    third.resume(path, 2)
    assert (third.seconds["steps"], third.seconds["lost"]) == (20.0, 65.0)
    third.save(path)
    # The checkpoints are deleted, so all work is lost.
    fourth = GoodputRecorder(clock=clock)
    fourth.resume(path, 0)
    assert (fourth.seconds["steps"], fourth.seconds["lost"], fourth.total_seconds()) == (
        0.0,
        85.0,
        103.0,
    )


def test_a_run_that_saves_before_it_stops_loses_nothing(tmp_path: Path) -> None:
    path, clock = tmp_path / "goodput.json", FakeClock()
    for start, end in ((0, 5), (5, 9)):
        recorder = GoodputRecorder(clock=clock)
        recorder.resume(path, start)
        with recorder.phase("steps"):
            clock.now += 10.0
        recorder.mark_saved(end)
        recorder.save(path)
    assert (recorder.seconds["steps"], recorder.seconds["lost"]) == (20.0, 0.0)


def test_a_long_run_keeps_a_short_file(tmp_path: Path) -> None:
    path, clock = tmp_path / "goodput.json", FakeClock()
    recorder = GoodputRecorder(clock=clock)
    for step in range(1, 1001):
        with recorder.phase("steps"):
            clock.now += 1.0
        recorder.mark_saved(step)
    recorder.save(path)
    saved_steps = json.loads(path.read_text())["step_seconds_when_saved"]
    assert len(saved_steps) == 101
    assert (saved_steps["0"], saved_steps["1000"], "900" in saved_steps) == (0.0, 1000.0, False)
    assert [child.name for child in tmp_path.iterdir()] == ["goodput.json"]
