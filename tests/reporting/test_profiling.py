import logging
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from vswin_jax.errors import InputError
from vswin_jax.reporting.profiling import STEP_NAME, Profiler, parse_step_range


@pytest.mark.parametrize(("text", "step_range"), [("", None), ("1:1", (1, 1)), ("10:14", (10, 14))])
def test_step_ranges(text: str, step_range: tuple[int, int] | None) -> None:
    assert parse_step_range(text) == step_range


@pytest.mark.parametrize("text", ["3", "0:2", "5:4", "a:b", "-1:2", "1:2:3"])
def test_invalid_step_ranges(text: str) -> None:
    with pytest.raises(
        InputError, match=rf"Expected --profile FIRST:LAST.* got {re.escape(repr(text))}"
    ):
        parse_step_range(text)


def steps_in(directory: Path) -> list[int]:
    """Return the numbers of the steps in a trace."""
    (path,) = directory.rglob("*.xplane.pb")
    data = jax.profiler.ProfileData.from_serialized_xspace(path.read_bytes())
    events = [event for plane in data.planes for line in plane.lines for event in line.events]
    return sorted(dict(event.stats)["step_num"] for event in events if event.name == STEP_NAME)


def run_steps(workdir: Path, step_range: tuple[int, int] | None, steps: int) -> None:
    """Run steps as a run does that resumes after step 100."""
    step = jax.jit(lambda x: jnp.sin(x) @ x)
    x = jnp.eye(16)
    with Profiler(workdir, step_range) as profiler:
        for number in range(101, 101 + steps):
            with profiler.step(number):
                x = step(x)
            profiler.finish(x)


@pytest.mark.filterwarnings("ignore:builtin type event_stats:DeprecationWarning")
def test_a_trace_has_the_requested_steps(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="vswin_jax")
    run_steps(tmp_path, (2, 4), 6)
    assert steps_in(tmp_path / "profile") == [102, 103, 104]
    assert "traced steps 2 to 4 of this start" in caplog.text
    assert f"tensorboard --logdir {tmp_path / 'profile'}" in caplog.text


@pytest.mark.filterwarnings("ignore:builtin type event_stats:DeprecationWarning")
def test_a_run_that_ends_early_keeps_its_trace(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="vswin_jax")
    run_steps(tmp_path, (2, 10), 3)
    assert steps_in(tmp_path / "profile") == [102, 103]
    assert "traced steps 2 to 3 of this start" in caplog.text


def test_a_run_that_ends_before_the_first_traced_step_logs_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_steps(tmp_path, (10, 14), 3)
    assert "--profile begins at step 10 of this start, which had 3" in caplog.text
    caplog.clear()
    run_steps(tmp_path, None, 3)
    assert not caplog.text
    assert not (tmp_path / "profile").exists()
