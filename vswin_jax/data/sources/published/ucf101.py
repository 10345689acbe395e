"""UCF101: trainlist01.txt `Class/v_X.avi 1`, testlist01.txt without numbers, classInd.txt.

As in UCF101TrainTestSplits-RecognitionTask.zip of https://www.crcv.ucf.edu/data/UCF101.php
(arXiv:1212.0402). The class is the folder; the numbers count from 1 in the order of classInd.txt.
"""

import os
import re

from vswin_jax.data.sources.published.listing import (
    ListedVideo,
    ListFormat,
    Listing,
    read_numbered_names,
)
from vswin_jax.runtime.text_files import bad_line, numbered_lines, read_text

_NAMES_FILE = "classInd.txt"
_LIST_NAME = re.compile(r"(train|test)list\d+\.txt", re.IGNORECASE)
_VIDEO = re.compile(r"\s*([^/\\\s]+)[/\\]([^/\\\s]+\.avi)(?:\s+(\d{1,9}))?\s*", re.IGNORECASE)
_NUMBER_AND_NAME = re.compile(r"\s*(?P<number>\d{1,9})\s+(?P<name>\S+)\s*")


def _matches(path: str, head: str) -> bool:
    # Third-party lists of these videos have the same lines but count from 0; only the file's name
    # distinguishes them.
    has_name = _LIST_NAME.fullmatch(os.path.basename(path))
    return bool(has_name and _VIDEO.fullmatch(head.partition("\n")[0]))


def _read(path: str) -> Listing:
    names = read_numbered_names(path, _NAMES_FILE, _NUMBER_AND_NAME, "`number Class`", first=1)
    numbers = {name: str(number) for number, name in enumerate(names or (), start=1)}
    videos = []
    for line, text in numbered_lines(read_text(path)):
        match = _VIDEO.fullmatch(text)
        if not match:
            expected = "`Class/video.avi`, and in a training list a number"
            raise bad_line(path, line, expected, text)
        label, file, number = match.groups()
        expected_number = numbers.get(label)
        if number and expected_number and number != expected_number:
            expected = f"the number {expected_number}, as in {_NAMES_FILE},"
            raise bad_line(path, line, expected, text)
        videos.append(ListedVideo(line, f"{label}/{file}", label))
    return Listing(videos, names, _NAMES_FILE)


FORMAT = ListFormat(matches=_matches, read=_read)
