"""Scores of answers for videos whose classes are known."""

from collections.abc import Mapping, Sequence

import numpy as np

from vswin_jax.inference.answers.answer_rows import Answer
from vswin_jax.training import metrics


def score_answers(
    answers: Sequence[Answer], label_names: Sequence[str], *, multi_label: bool
) -> Mapping[str, float]:
    """Return the scores by name, over the videos that have answers and known classes.

    They are top1, and top5 of more than five classes; of sets of classes hit1, and mAP if the
    answers have the scores of all classes. Without such videos there are none.
    """
    known = [answer for answer in answers if answer.error is None and answer.truth is not None]
    if multi_label:
        return _set_scores(known, label_names)
    known = [answer for answer in known if answer.truth]
    if not known:
        return {}
    scores = {"top1": _share([answer.truth[0] == answer.classes[0] for answer in known])}
    if len(label_names) > 5 and all(len(answer.classes) >= 5 for answer in known):
        scores["top5"] = _share([answer.truth[0] in answer.classes[:5] for answer in known])
    return scores


def _set_scores(known: Sequence[Answer], label_names: Sequence[str]) -> Mapping[str, float]:
    with_any = [answer for answer in known if answer.truth]
    if not with_any:
        return {}
    scores = {"hit1": _share([answer.classes[0] in answer.truth for answer in with_any])}
    if all(answer.scores is not None for answer in known):
        labels = np.array([[name in answer.truth for name in label_names] for answer in known])
        probabilities = np.array([answer.scores for answer in known], np.float32)
        precisions = metrics.average_precisions(probabilities, labels.astype(np.float32))
        scores["mAP"] = metrics.mean_over_present(precisions)
    return scores


def describe_scores(scores: Mapping[str, float]) -> str:
    """Format scores as a phrase such as "top1 75.00%, top5 93.10%"."""
    return ", ".join(f"{name} {value:.2%}" for name, value in scores.items())


def _share(is_right: Sequence[bool]) -> float:
    return sum(is_right) / len(is_right)
