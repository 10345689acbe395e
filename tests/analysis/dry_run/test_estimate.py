"""The estimated time of a whole run."""

from dataclasses import replace
from pathlib import Path

import jax
import pytest

from vswin_jax.analysis.compiled_program import CompiledProgram, MemoryStats
from vswin_jax.analysis.dry_run import CompileResult, CompileTarget
from vswin_jax.analysis.dry_run.estimate import UTILISATION, basis, estimate_rows, phases
from vswin_jax.config import flags
from vswin_jax.runtime.hardware import tpu

K400 = Path(__file__).parents[3] / "experiments" / "k400.py"


@pytest.fixture(scope="module")
def target() -> CompileTarget:
    config = flags.override(
        flags.load(f"{K400}:variant=tiny"),
        ["--config.model.depths=(1,)", "--config.model.num_heads=(3,)"],
    )
    found = CompileTarget.from_config(config, jax.devices()[:1])
    return replace(found, chip=tpu("v5e"))


def bounded_by(seconds: float) -> CompileResult:
    """Return the result of a step whose arithmetic takes a v5e that long at its peak."""
    program = CompiledProgram(1, (), MemoryStats(0, 0, 0, 0, 0), 197e12 * seconds, 0.0, 0.0, {})
    return CompileResult("a step", 1.0, program, 1, 2)


RESULTS = [bounded_by(0.5), bounded_by(0.96)]


def test_the_parts_of_a_recipe(target: CompileTarget) -> None:
    training, quick, final = phases(target, RESULTS)
    # 30 epochs of 240,000 clips, 64 a step: 112,500 steps of half a second.
    assert training.amount == "112,500 steps"
    assert (training.count, training.seconds) == (7_200_000, 56_250.0)
    # An evaluation step has 8 videos of 12 views: 0.01 s a view. Every fifth epoch has one view.
    assert quick.count == 6 * 20_000
    assert quick.seconds == pytest.approx(1200.0)
    assert final.count == 20_000
    assert final.seconds == pytest.approx(2400.0)


def test_the_rows_of_the_table(target: CompileTarget) -> None:
    header, training, quick, final, together = estimate_rows(target, RESULTS)
    assert UTILISATION == 0.4
    assert header[-2:] == ("at the bound", "at 40% of it")
    # 7.2 million clips in 56,250 s; 15.6 h, and 39 h at 40 %.
    assert training[-2:] == ("128 clips/s, 16 h", "51 clips/s, 39 h")
    assert quick[1:] == ("6 x 20,000 videos", "100 videos/s, 20 min", "40 videos/s, 50 min")
    assert final[-2:] == ("8.3 videos/s, 40 min", "3.3 videos/s, 1.7 h")
    assert together[-2:] == ("17 h, 17 chip-hours", "42 h, 42 chip-hours")
    assert "peaks of the v5e. No step was measured there" in basis(target)


def test_chips_with_two_devices_count_once(target: CompileTarget) -> None:
    *_, together = estimate_rows(
        replace(target, chip=replace(tpu("v5e"), devices_per_chip=2)), RESULTS
    )
    assert together[-2] == "17 h, 8.3 chip-hours"


def test_there_is_no_estimate_without_a_program_or_peaks(target: CompileTarget) -> None:
    misfit = CompileResult("training step", 1.0, None, 2, 1)
    assert estimate_rows(target, [misfit, bounded_by(1.0)]) == [
        ("estimate of the whole run", "none, since the training step does not fit")
    ]
    ((_, words),) = estimate_rows(replace(target, chip=None), RESULTS)
    assert words.startswith("none, since the peaks of 'cpu' are not known")


def test_held_out_videos_may_be_unknown(target: CompileTarget) -> None:
    unknown = replace(target, dataset=replace(target.dataset, held_out=None))
    assert [part.name for part in phases(unknown, RESULTS)] == ["training"]
