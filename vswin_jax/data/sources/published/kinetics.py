"""Kinetics-400, -600 and -700: `label,youtube_id,time_start,time_end,split[,is_cc]`.

Columns and file names as in the archives of https://github.com/cvdfoundation/kinetics-dataset and
ActivityNet's Crawler/Kinetics: `<youtube_id>_<start>_<end>.mp4`, with start and end in seconds of
six digits, in a folder for each class or all in one. No class list is published; the usual order is
alphabetical (as in the label map of the Video Swin authors).
"""

import re

from vswin_jax.data.sources.csv_table import read_table
from vswin_jax.data.sources.published.listing import (
    ListedVideo,
    ListFormat,
    Listing,
    alphabetical_listing,
)
from vswin_jax.errors import InputError
from vswin_jax.runtime.text_files import bad_line, read_text

_COLUMNS = ("youtube_id", "time_start", "time_end")
# pandas writes whole numbers as `12.0` if a cell of the column is missing.
_SECONDS = re.compile(r"(\d{1,9})(?:\.0*)?")


def _matches(path: str, head: str) -> bool:
    first_line = head.partition("\n")[0].lower().replace('"', "")
    return set(_COLUMNS) <= {name.strip() for name in re.split(r"[,;\t]", first_line)}


def _read(path: str) -> Listing:
    columns = ("label", *_COLUMNS)
    table = read_table(read_text(path), path, [[name] for name in columns])
    missing = [name for name in columns if name not in table.header]
    if missing:
        raise InputError(
            f"{path!r} is not a labelled Kinetics list: it has no column {missing[0]!r} (the test "
            "lists of the challenges have no labels); use the train or val list."
        )
    records = list(table.records)
    _check_one_split({record.get("split", "") for _, record in records}, path)
    return alphabetical_listing([_listed_video(line, record, path) for line, record in records])


def _check_one_split(splits: set[str], path: str) -> None:
    if len(splits) > 1:
        raise InputError(
            f"Expected one split in {path!r} but it has {', '.join(sorted(map(repr, splits)))}: "
            "make a file of each."
        )


def _listed_video(line: int, record: dict[str, str], path: str) -> ListedVideo:
    label, *clip = (record[name] for name in ("label", *_COLUMNS))
    youtube_id, *times = clip
    start, end = map(_SECONDS.fullmatch, times)
    if not (label and youtube_id and start and end):
        raise bad_line(path, line, "`label,youtube_id,seconds,seconds`", ",".join([label, *clip]))
    file = f"{youtube_id}_{int(start[1]):06d}_{int(end[1]):06d}.mp4"
    return ListedVideo(line, f"{label}/{file}", label)


FORMAT = ListFormat(matches=_matches, read=_read)
