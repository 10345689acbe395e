"""Choice of the step that a path stands for: a run's latest one, or its best one if asked for."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from etils import epath

from vswin_jax.checkpoint.quarantine import latest_intact
from vswin_jax.checkpoint.step_directories import (
    absolute_path,
    find_damage,
    read_score,
    steps_in,
)
from vswin_jax.errors import InputError, unknown_name

LATEST, BEST = "latest", "best"
CHOICES = (LATEST, BEST)
# Reason for a step whose own directory was given.
NAMED = "named"


@dataclass(frozen=True)
class ChosenStep:
    """A step of a run, and the reason for its choice.

    Attributes:
      directory: that of the step, whose files are as they were saved.
      step: its number.
      reason: a phrase.
      note: a clause on the score of the step, and on the step that another choice gives.
    """

    directory: epath.Path
    step: int
    reason: str
    note: str = ""

    def describe(self) -> str:
        """Format the step and the reason for its choice as one line."""
        reason = f"{self.reason}: {self.note}" if self.note else self.reason
        return f"the checkpoint of step {self.step} in '{self.directory.parent}' ({reason})"


def choose_step(path: str | os.PathLike[str], which: str = LATEST) -> ChosenStep:
    """Find the step that `path` stands for, and check its files.

    `path` is a run's directory, its `checkpoints` directory, or the directory of one step. Of
    several steps the latest is taken, or the best one: that of the highest quick score, the later
    of equals, the latest if none has a score. Damaged steps are logged and skipped in search of
    the latest; the best one has no substitute.

    Raises:
      InputError: there is no checkpoint, or the step is damaged.
    """
    if which not in CHOICES:
        raise unknown_name("choice of a checkpoint", which, CHOICES)
    directory = absolute_path(path)
    root = checkpoint_root(directory)
    if root is None:
        check_intact(directory)
        step = int(directory.name) if directory.name.isdecimal() else 0
        return ChosenStep(directory, step, NAMED)
    return _latest(root) if which == LATEST else _best(root)


def checkpoint_root(path: epath.Path) -> epath.Path | None:
    """Return the directory with the steps of the run at `path`; None if `path` is one step.

    Raises:
      InputError: there is no checkpoint.
    """
    if not path.exists():
        raise InputError(
            f"A checkpoint was expected at '{path}', but nothing is there: give the directory of a "
            f"run, or of one of its checkpoints."
        )
    if (path / "state").is_dir():
        return None
    root = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    if not steps_in(root):
        convert = ", or convert this file with scripts/convert_weights.py" if path.is_file() else ""
        raise InputError(
            f"No checkpoint was found in '{root}': give the directory of a run that has saved one"
            f"{convert}."
        )
    return root


def best_step(steps: Mapping[int, epath.Path]) -> int:
    """Return the step with the highest score, the later of equals; the last if none has a score.

    Raises:
      InputError: a step is damaged, so its score is not certain.
    """
    for step, directory in steps.items():
        reason = find_damage(directory, thorough=False)
        if reason:
            raise InputError(
                f"The best checkpoint in '{directory.parent}' cannot be determined, because that "
                f"of step {step} is damaged ({reason}): give the directory of another step, or "
                f"start the training again, which renames the damaged one."
            )
    scores = _scores(steps)
    return max(scores, key=lambda step: (scores[step], step)) if scores else max(steps)


def check_intact(directory: epath.Path) -> None:
    """Compare the files of a step with those that were saved.

    Raises:
      InputError: they differ.
    """
    reason = find_damage(directory, thorough=True)
    if reason:
        raise InputError(
            f"The checkpoint '{directory}' is damaged ({reason}): give another one, or start the "
            f"training again, which resumes from the newest one that is intact."
        )


def _latest(root: epath.Path) -> ChosenStep:
    directory = latest_intact(root)
    assert directory is not None
    step = int(directory.name)
    # The step is chosen, so a damaged one is merely no candidate for the best.
    intact = {n: p for n, p in steps_in(root).items() if not find_damage(p, thorough=False)}
    scores = _scores(intact)
    best = best_step(intact) if scores else step
    other = f"the best by quick score is step {best} ({scores[best]:.4g})" if best != step else ""
    return ChosenStep(directory, step, LATEST, _clauses(_own_score(scores, step), other))


def _best(root: epath.Path) -> ChosenStep:
    steps = steps_in(root)
    best, latest, scores = best_step(steps), max(steps), _scores(steps)
    check_intact(root / str(best))
    reason = "best by quick score" if scores else "latest, since no step has a quick score"
    other = f"the latest is step {latest}" if best != latest else ""
    return ChosenStep(root / str(best), best, reason, _clauses(_own_score(scores, best), other))


def _scores(steps: Mapping[int, epath.Path]) -> dict[int, float]:
    scores = {step: read_score(directory) for step, directory in steps.items()}
    return {step: score for step, score in scores.items() if score is not None}


def _own_score(scores: Mapping[int, float], step: int) -> str:
    return f"quick score {scores[step]:.4g}" if step in scores else ""


def _clauses(*clauses: str) -> str:
    return "; ".join(filter(None, clauses))
