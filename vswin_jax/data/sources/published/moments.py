"""Moments in Time: trainingSet.csv and validationSet.csv, with moments_categories.txt.

As in the data set's README.txt (http://moments.csail.mit.edu, arXiv:1801.03150): lines without a
header, `class/file.mp4,label,agreeing,disagreeing`, and `label,index` with indices from 0.
"""

import re

from vswin_jax.data.sources.csv_table import csv_rows
from vswin_jax.data.sources.folders import is_video
from vswin_jax.data.sources.published.listing import (
    ListedVideo,
    ListFormat,
    Listing,
    read_numbered_names,
)
from vswin_jax.runtime.text_files import bad_line, read_text

_NAMES_FILE = "moments_categories.txt"
_NAME_AND_NUMBER = re.compile(r"\s*(?P<name>.*\S)\s*,\s*(?P<number>\d{1,9})\s*")


def _matches(path: str, head: str) -> bool:
    # Unlike other lists without a header, this one repeats the video's folder as its label.
    video, label, *_ = (*head.partition("\n")[0].replace('"', "").split(","), "", "")
    folder, slash, _ = video.strip().rpartition("/")
    return path.lower().endswith(".csv") and bool(slash) and folder == label.strip()


def _read(path: str) -> Listing:
    videos = []
    for line, cells in csv_rows(read_text(path), path):
        video, label = [*cells, ""][:2]
        if not label or not is_video(video):
            raise bad_line(path, line, "`class/file.mp4,label,...`", ",".join(cells))
        videos.append(ListedVideo(line, video, label))
    names = read_numbered_names(path, _NAMES_FILE, _NAME_AND_NUMBER, "`label,index`", first=0)
    return Listing(videos, names, _NAMES_FILE)


FORMAT = ListFormat(matches=_matches, read=_read)
