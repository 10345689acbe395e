"""Matches the answers of earlier starts with the videos of this one."""

from collections import defaultdict, deque
from collections.abc import Iterable, Sequence

from vswin_jax.inference.answers.answer_rows import Answer
from vswin_jax.runtime.printable import encodable


class EarlierAnswers:
    """The answers that a file has, by the names of the videos.

    A name that is in a list several times has as many answers.
    """

    def __init__(self, answers: Sequence[Answer], *, retry_errors: bool) -> None:
        """Take the answers of a file; with `retry_errors` those of bad videos do not count.

        The answers of videos that were missing never count, because they may have come since.
        """
        self._answers = answers
        self._by_name: defaultdict[str, deque[Answer]] = defaultdict(deque)
        # A bad video that was tried again has both its error and its answer.
        for answer in sorted(answers, key=lambda answer: answer.error is not None):
            if not (answer.was_missing or (retry_errors and answer.error is not None)):
                self._by_name[_key(answer.video)].append(answer)

    def take(self, name: str) -> Answer | None:
        """Return an answer for the video of that name, each once; None if there is none."""
        found = self._by_name.get(_key(name))
        return found.popleft() if found else None

    def of_others(self, names: Iterable[str]) -> list[Answer]:
        """Return the answers for all videos but those of these names, in the order of the file."""
        known = set(map(_key, names))
        return [answer for answer in self._answers if _key(answer.video) not in known]


def _key(name: str) -> str:
    # Parquet cannot hold names that are not UTF-8; they have escapes there.
    return encodable(name)
