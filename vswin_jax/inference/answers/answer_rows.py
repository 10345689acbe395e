"""The answers of a model for one video: a row of a file of answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

# Digits that tell all numbers of 32 bits apart.
_DIGITS = 9
# Parts of the reasons for paths without a file: of `find_videos`, and of the system.
_MISSING_REASONS = ("There is no video file at", "(No such file or directory)")


@dataclass(frozen=True)
class Answer:
    """The answers for one video, or the reason why there are none.

    Attributes:
      video: the video as the user wrote it, or its name in a record.
      truth: the names of its classes, which may be none; None if they are not known.
      classes: the most probable classes.
      probabilities: their probabilities, averaged over the views.
      scores: the probabilities of all classes, or None if they were not asked for.
      error: the reason why the video has no answers, or None.
    """

    video: str
    truth: tuple[str, ...] | None = None
    classes: tuple[str, ...] = ()
    probabilities: tuple[float, ...] = ()
    scores: tuple[float, ...] | None = None
    error: str | None = None

    @property
    def was_missing(self) -> bool:
        """True if there was no file when the video was to be read."""
        return self.error is not None and any(text in self.error for text in _MISSING_REASONS)

    def to_json(self) -> dict[str, Any]:
        """Return the fields that are set, as a row of JSON."""
        if self.error is not None:
            shown: dict[str, Any] = {"error": self.error}
        else:
            shown = {"classes": [*self.classes], "probabilities": [*self.probabilities]}
            shown |= {} if self.scores is None else {"scores": [*self.scores]}
        truth = {} if self.truth is None else {"truth": [*self.truth]}
        return {"video": self.video, **truth, **shown}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> "Answer":
        """Return the answer of a row that `to_json` has made.

        Raises:
          KeyError, TypeError, ValueError: it is none.
        """
        scores = row.get("scores")
        error = row.get("error")
        if error is None and len(row["classes"]) != len(row["probabilities"]):
            raise ValueError("classes and probabilities differ in number")
        return cls(
            video=str(row["video"]),
            truth=None if row.get("truth") is None else tuple(row["truth"]),
            classes=tuple(row.get("classes") or ()),
            probabilities=tuple(map(float, row.get("probabilities") or ())),
            scores=None if scores is None else tuple(map(float, scores)),
            error=None if error is None else str(error),
        )


def make_answer(
    video: str,
    truth: tuple[str, ...] | None,
    probabilities: Float[np.ndarray, " K"],
    label_names: Sequence[str],
    *,
    topk: int,
    all_scores: bool,
) -> Answer:
    """Build the answer of a video from the probabilities of all K classes."""
    best = np.argsort(-probabilities, kind="stable")[:topk]
    return Answer(
        video=video,
        truth=truth,
        classes=tuple(label_names[k] for k in best),
        probabilities=tuple(map(_rounded, probabilities[best])),
        scores=tuple(map(_rounded, probabilities)) if all_scores else None,
    )


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
