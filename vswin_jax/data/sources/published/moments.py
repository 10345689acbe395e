"""Moments in Time: trainingSet.csv and validationSet.csv, with moments_categories.txt.

As in the data set's README.txt (http://moments.csail.mit.edu, arXiv:1801.03150): lines without a
header, `class/file.mp4,label,agreeing,disagreeing`, and `label,index` with indices from 0.
"""

import csv

from vswin_jax.data.sources.annotations import bad_line, read_text
from vswin_jax.data.sources.folders import VIDEO_SUFFIXES
from vswin_jax.data.sources.published.listing import Entry, Family, Listing, beside, in_order

_NAMES_FILE = "moments_categories.txt"


def _recognises(path: str, head: str) -> bool:
    # Other lists without a header are not to be mistaken for it: here the folder is the label.
    video, label, *_ = (*head.partition("\n")[0].replace('"', "").split(","), "", "")
    folder, slash, _ = video.strip().rpartition("/")
    return path.lower().endswith(".csv") and bool(slash) and folder == label.strip()


def _read(path: str) -> Listing:
    entries = []
    reader = csv.reader(read_text(path).splitlines())
    for fields in filter(None, reader):
        video, label = ([*map(str.strip, fields), ""])[:2]
        if not label or not video.lower().endswith(VIDEO_SUFFIXES):
            raise bad_line(path, reader.line_num, "`class/file.mp4,label,...`", ",".join(fields))
        entries.append(Entry(reader.line_num, video, label))
    return Listing(entries, _label_names(path), _NAMES_FILE)


def _label_names(path: str) -> tuple[str, ...] | None:
    found = beside(path, [_NAMES_FILE])
    if found is None:
        return None
    numbers = {}
    for line, text in enumerate(found[1].splitlines(), start=1):
        name, _, number = text.rpartition(",")
        if name.strip() and number.strip().isdecimal():
            numbers[name.strip()] = int(number)
        elif text.strip():
            raise bad_line(found[0], line, "`label,index`", text)
    return in_order(numbers, 0, found[0])


FAMILY = Family(_recognises, _read)
