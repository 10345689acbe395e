"""Late fusion: weighted means of the scores in several files of answers."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from vswin_jax.errors import InputError, join_some
from vswin_jax.inference.answers.answer_formats import (
    format_of,
    read_answers,
    read_settings,
    write_settings,
)
from vswin_jax.inference.answers.answer_rows import Answer, make_answer
from vswin_jax.inference.answers.answer_scores import score_answers
from vswin_jax.inference.predictor import TOPK, checked_topk
from vswin_jax.runtime.file_lock import exclusive_lock
from vswin_jax.runtime.output_path import output_file

AnyPath = str | os.PathLike[str]
# The setting with the files and their shares.
_COMBINED = "combined"


@dataclass(frozen=True)
class CombinedAnswers:
    """The result of `combine`.

    Attributes:
      answers: the answers for the videos that all files answer, in the order of the first one.
      left_out: the names of the videos that only some files answer.
      scores: the scores of `answers` by name, if the classes of the videos are known.
      own_scores: those of each file on the same videos.
    """

    answers: tuple[Answer, ...]
    left_out: tuple[str, ...]
    scores: Mapping[str, float]
    own_scores: tuple[Mapping[str, float], ...]


@dataclass(frozen=True)
class _AnsweredSet:
    """The answers of one file, whose scores have the order of `label_names`."""

    path: Path
    label_names: tuple[str, ...]
    multi_label: bool
    by_name: Mapping[str, Answer]

    def scores(self, videos: Sequence[str], label_names: Sequence[str]) -> Float[np.ndarray, "N K"]:
        """Return the scores of videos in the order of other names."""
        place = {name: index for index, name in enumerate(self.label_names)}
        order = [place[name] for name in label_names]
        return np.array([self.by_name[video].scores for video in videos])[:, order]

    def summary(self, videos: Sequence[str]) -> Mapping[str, float]:
        """Return the scores of these answers on some videos."""
        answers = [self.by_name[video] for video in videos]
        return score_answers(answers, self.label_names, multi_label=self.multi_label)


def combine(
    files: Sequence[AnyPath],
    out: AnyPath | None = None,
    *,
    weights: Sequence[float] | None = None,
    topk: int = TOPK,
    allow_missing: bool = False,
    overwrite: bool = False,
) -> CombinedAnswers:
    """Combine the answers of several models or views by the weighted mean of their scores.

    Videos and classes are matched by their names.

    Args:
      files: files of answers with the scores of all classes (`predict --out FILE --scores all`).
      out: the file to write, .jsonl, .csv or .parquet; None writes nothing.
      weights: a positive number for each file, which need not add up to 1; by default equal ones.
      topk: classes for each video.
      allow_missing: leave out videos that only some of the files answer.
      overwrite: replace a file that is no earlier combination.

    Raises:
      InputError: files without all scores, of other classes or of other videos; wrong weights.
    """
    shares = _shares(files, weights)
    checked_topk(topk)
    path = None if out is None else _checked_out(out, files, overwrite=overwrite)
    sets = [_read(Path(os.fspath(file))) for file in files]
    _check_classes(sets)
    videos, left_out = _common_videos(sets, allow_missing=allow_missing)
    names = sets[0].label_names
    means = sum(share * one.scores(videos, names) for share, one in zip(shares, sets, strict=True))
    answers = [
        make_answer(video, _truth(sets, video), row, names, topk=topk, all_scores=True)
        for video, row in zip(videos, means, strict=True)
    ]
    if path is not None:
        _write(path, answers, _settings(sets, shares, topk))
    return CombinedAnswers(
        answers=tuple(answers),
        left_out=left_out,
        scores=score_answers(answers, names, multi_label=sets[0].multi_label),
        own_scores=tuple(one.summary(videos) for one in sets),
    )


def _checked_out(out: AnyPath, files: Sequence[AnyPath], *, overwrite: bool) -> Path:
    """Return the path of the file to write, unless that would lose answers."""
    path = Path(output_file(os.fspath(out), "out"))
    format_of(path)
    if path.exists() and any(os.path.exists(file) and path.samefile(file) for file in files):
        raise InputError(
            f"Expected another file for the combined answers but {os.fspath(path)!r} is one of "
            f"those to combine: change out."
        )
    if path.exists() and not overwrite and not _is_combination(path):
        raise InputError(
            f"{os.fspath(path)!r} exists and is not of `python -m vswin_jax.combine`: give another "
            f"name, or overwrite it."
        )
    return path


def _is_combination(path: Path) -> bool:
    try:
        return _COMBINED in read_settings(path)
    except InputError:
        return False


def _write(path: Path, answers: Sequence[Answer], settings: Mapping[str, Any]) -> None:
    with exclusive_lock(path.with_name(f".{path.name}.lock"), f"writing answers to '{path}'"):
        # Answers are never beside the settings of others.
        path.unlink(missing_ok=True)
        write_settings(path, settings)
        format_of(path).write(path, answers, settings["label_names"])


def _shares(files: Sequence[AnyPath], weights: Sequence[float] | None) -> list[float]:
    if len(files) < 2:
        raise InputError(f"Expected two or more files of answers but {len(files)} came.")
    weights = [1.0] * len(files) if weights is None else [*weights]
    if len(weights) != len(files):
        raise InputError(
            f"Expected a weight for each of the {len(files)} files but {len(weights)} came."
        )
    if not all(0 < weight < float("inf") for weight in weights):
        raise InputError(f"Expected positive weights but {weights} came: leave other files out.")
    return [weight / sum(weights) for weight in weights]


def _read(path: Path) -> _AnsweredSet:
    answers = read_answers(path)
    settings = read_settings(path)
    names = settings["label_names"]
    good = [answer for answer in answers if answer.error is None]
    for answer in good:
        if answer.scores is None or len(answer.scores) != len(names):
            raise InputError(
                f"Expected the scores of all {len(names)} classes but {os.fspath(path)!r} has only "
                f"the most probable ones: predict again with --scores all."
            )
    by_name = {answer.video: answer for answer in good}
    if len(by_name) < len(good):
        raise InputError(
            f"{os.fspath(path)!r} has several videos of one name, which cannot be matched: give "
            f"the videos by different paths."
        )
    return _AnsweredSet(path, names, bool(settings.get("multi_label")), by_name)


def _check_classes(sets: Sequence[_AnsweredSet]) -> None:
    first = sets[0]
    for other in sets[1:]:
        differing = set(first.label_names) ^ set(other.label_names)
        if differing or first.multi_label != other.multi_label:
            names = f" ({join_some(sorted(differing), 3)})" if differing else ""
            raise InputError(
                f"Expected answers of the same classes but those of {os.fspath(first.path)!r} and "
                f"{os.fspath(other.path)!r} differ{names}: combine models of one data set."
            )


def _common_videos(
    sets: Sequence[_AnsweredSet], *, allow_missing: bool
) -> tuple[list[str], tuple[str, ...]]:
    """Return the videos that all files answer, and those that only some do."""
    every = dict.fromkeys(name for one in sets for name in one.by_name)
    common = [name for name in every if all(name in one.by_name for one in sets)]
    left_out = tuple(name for name in every if any(name not in one.by_name for one in sets))
    if left_out and not (allow_missing and common):
        advice = "allow missing videos to leave them out" if common else "give files of the same"
        raise InputError(
            f"{len(left_out)} of {len(every)} videos are answered by only some of the files "
            f"({join_some(left_out, 3)}): {advice}."
        )
    if not common:
        raise InputError("The files have no answers: predict again.")
    return common, left_out


def _truth(sets: Sequence[_AnsweredSet], video: str) -> tuple[str, ...] | None:
    known = (one.by_name[video].truth for one in sets)
    return next((truth for truth in known if truth is not None), None)


def _settings(sets: Sequence[_AnsweredSet], shares: Sequence[float], topk: int) -> dict[str, Any]:
    files = {os.fspath(one.path): share for one, share in zip(sets, shares, strict=True)}
    return {
        _COMBINED: files,
        "topk": min(topk, len(sets[0].label_names)),
        "all_scores": True,
        "multi_label": sets[0].multi_label,
        "label_names": [*sets[0].label_names],
    }
