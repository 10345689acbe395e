"""Estimated clips a second, hours and chip-hours of a whole run, from its compiled steps."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vswin_jax.analysis.dry_run.programs import CompileResult, CompileTarget
from vswin_jax.analysis.dry_run.roofline import Roofline

# The fraction of its roofline bound that a step is assumed to reach. No step was measured on these
# devices yet, so this is an assumption, which the table states.
UTILISATION = 0.4


@dataclass(frozen=True)
class Phase:
    """A part of a run.

    Attributes:
      name: The name, for the table.
      amount: The work, in words.
      unit: The things that the part goes through, "clips" or "videos".
      count: The number of them.
      seconds: The lower bound of the time.
    """

    name: str
    amount: str
    unit: str
    count: int
    seconds: float


def phases(target: CompileTarget, results: Sequence[CompileResult]) -> list[Phase]:
    """Return the parts of a run with the roofline bounds of their times, those that are known."""
    training, evaluation = (_bound(target, result) for result in results)
    found = [] if training is None else [_training(target, training)]
    if evaluation is not None and target.dataset.held_out:
        found += _evaluations(target, evaluation, target.dataset.held_out)
    return found


def _bound(target: CompileTarget, result: CompileResult) -> float | None:
    if target.chip is None or result.program is None:
        return None
    return Roofline.from_program(result.program, target.chip).seconds


def _training(target: CompileTarget, bound: float) -> Phase:
    steps = target.durations.total_steps
    clips = steps * target.config.train.batch_size
    return Phase("training", f"{steps:,} steps", "clips", clips, steps * bound)


def _evaluations(target: CompileTarget, bound: float, videos: int) -> list[Phase]:
    """Return the quick evaluations while training, with one view a video, and the final one."""
    views = target.config.eval.num_clips * target.config.eval.num_crops
    per_view = bound / target.padded_eval_batch / views
    quick = _quick_evaluations(target) * videos
    times = f"{_quick_evaluations(target)} x {videos:,} videos"
    return [
        Phase("quick evaluations", times, "videos", quick, quick * per_view),
        Phase(
            "final evaluation",
            f"{videos:,} videos x {views} views",
            "videos",
            videos,
            videos * views * per_view,
        ),
    ]


def _quick_evaluations(target: CompileTarget) -> int:
    total, every = target.durations.total_steps, target.durations.eval_every
    return 1 if every <= 0 else math.ceil(total / every)


def estimate_rows(target: CompileTarget, results: Sequence[CompileResult]) -> list[Sequence[str]]:
    """Return the rows of the table about the time of the whole run."""
    parts = phases(target, results)
    if not parts or parts[0].name != "training":
        return [("estimate of the whole run", _no_estimate(target))]
    header = ("estimate of the whole run", "", "at the bound", f"at {UTILISATION:.0%} of it")
    seconds = sum(part.seconds for part in parts)
    total = [_chip_time(target, seconds / fraction) for fraction in (1.0, UTILISATION)]
    return [header, *map(_row, parts), ("  together", "", *total)]


def basis(target: CompileTarget) -> str:
    """Return the assumptions of the estimate, in words."""
    return (
        f"The bound is the compiled program's, by the peaks of the {target.chip.name}. No step was "
        f"measured there, so {UTILISATION:.0%} is an assumption. Reading videos, starting, saving "
        f"and interruptions are not counted."
    )


def _no_estimate(target: CompileTarget) -> str:
    if target.chip is not None:
        return "none, since the training step does not fit"
    kind = target.mesh.devices.flat[0].device_kind
    return f"none, since the peaks of {kind!r} are not known (--topology names devices that are)"


def _row(part: Phase) -> Sequence[str]:
    times = (part.seconds / fraction for fraction in (1.0, UTILISATION))
    cells = (
        f"{_number(part.count / seconds)} {part.unit}/s, {_duration(seconds)}" for seconds in times
    )
    return (f"  {part.name}", part.amount, *cells)


def _chip_time(target: CompileTarget, seconds: float) -> str:
    hours = seconds / 3600 * target.mesh.size / target.chip.devices_per_chip
    unit = "chip-hours" if target.chip.torus_axes else "GPU-hours"
    return f"{_duration(seconds)}, {_number(hours)} {unit}"


def _duration(seconds: float) -> str:
    if seconds >= 3600:
        return f"{_number(seconds / 3600)} h"
    return f"{_number(seconds / 60)} min" if seconds >= 60 else f"{_number(seconds)} s"


def _number(value: float) -> str:
    """Format a number with two digits at least: 0.012, 3.4, 1,230."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"
