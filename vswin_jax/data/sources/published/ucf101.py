"""UCF101: trainlist01.txt `Class/v_X.avi 1`, testlist01.txt without numbers, classInd.txt.

As in UCF101TrainTestSplits-RecognitionTask.zip of https://www.crcv.ucf.edu/data/UCF101.php
(arXiv:1212.0402). The class is the folder; the numbers count from 1 in the order of classInd.txt.
"""

import os
import re

from vswin_jax.data.sources.annotations import bad_line, read_text
from vswin_jax.data.sources.published.listing import Entry, Family, Listing, beside, in_order

_NAMES_FILE = "classInd.txt"
_LIST_NAME = re.compile(r"(train|test)list\d+\.txt", re.IGNORECASE)
_VIDEO = re.compile(r"\s*([^/\\\s]+)[/\\]([^/\\\s]+\.avi)(?:\s+(\d+))?\s*", re.IGNORECASE)
_CLASS = re.compile(r"\s*(\d+)\s+(\S+)\s*")


def _recognises(path: str, head: str) -> bool:
    # Other lists of these videos count from 0: only the published names tell these from them.
    is_named = _LIST_NAME.fullmatch(os.path.basename(path))
    return bool(is_named and _VIDEO.fullmatch(head.partition("\n")[0]))


def _read(path: str) -> Listing:
    names = _label_names(path)
    numbers = {name: str(place) for place, name in enumerate(names or (), start=1)}
    entries = []
    for line, text in enumerate(read_text(path).splitlines(), start=1):
        video = _VIDEO.fullmatch(text)
        if video:
            _check_number(video[3], numbers.get(video[1]), path, line, text)
            entries.append(Entry(line, f"{video[1]}/{video[2]}", video[1]))
        elif text.strip():
            raise bad_line(path, line, "`Class/video.avi`, and in a training list a number", text)
    return Listing(entries, names, _NAMES_FILE)


def _check_number(came: str | None, expected: str | None, path: str, line: int, text: str) -> None:
    if came and expected and came != expected:
        raise bad_line(path, line, f"the number {expected}, as {_NAMES_FILE} says,", text)


def _label_names(path: str) -> tuple[str, ...] | None:
    found = beside(path, [_NAMES_FILE])
    if found is None:
        return None
    numbers = {}
    for line, text in enumerate(found[1].splitlines(), start=1):
        pair = _CLASS.fullmatch(text)
        if pair:
            numbers[pair[2]] = int(pair[1])
        elif text.strip():
            raise bad_line(found[0], line, "`number Class`", text)
    return in_order(numbers, 1, found[0])


FAMILY = Family(_recognises, _read)
