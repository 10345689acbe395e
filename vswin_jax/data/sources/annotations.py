"""Reads annotation files, which list videos and their labels, as plain lines, CSV or JSON."""

import functools
import json
import math
import re
from collections.abc import Container, Iterable, Iterator
from typing import Any, NamedTuple, TypeGuard

from vswin_jax.data.sources.csv_table import read_table
from vswin_jax.errors import InputError
from vswin_jax.runtime.text_files import bad_line, numbered_lines, read_text

PATH_KEYS = ("path", "video", "filename")
LABEL_KEYS = ("label", "class")
# Fields are separated by spaces and tabs alone: other white space, as the narrow no-break space in
# the names of macOS's screen recordings, is part of a name.
_PATH_AND_LABEL = re.compile(r"(.*[^ \t])[ \t]+([^ \t]+)")
_FOLDER_FRAMES_LABEL = re.compile(r"(.*[^ \t])[ \t]+(\d{1,9})[ \t]+([^ \t]+)")
# JSON can escape NUL, and surrogates that stand for no byte (PEP 383): no file has such a name.
_NEVER_IN_PATHS = re.compile("[\0\ud800-\udc7f\udd00-\udfff]")
_BEFORE_VALUE = re.compile(r"\s*[\[,]\s*")


class AnnotationRow(NamedTuple):
    """One video of an annotation file.

    Attributes:
      line: the line number; 0 for a video that no file lists.
      path: the path as written.
      label: the label as written, or all labels of the video in a file with sets of labels.
      num_frames: the number of images in a folder of frames; 0 if the file does not state it.
    """

    line: int
    path: str
    label: str | tuple[str, ...]
    num_frames: int = 0


def read_annotations(path: str, kind: str, multi_label: bool = False) -> list[AnnotationRow]:
    """Read the rows of an annotation file; `kind` is list, frames, csv or jsonl.

    With `multi_label` every label is a tuple: text is split at each `;`, a list in JSON is taken as
    it is. An empty list in JSON and an empty cell in CSV are empty sets.

    Raises:
      InputError: the file is missing or empty, or a line is malformed; the message names the line.
    """
    text = read_text(path)
    parsers = {
        "list": _parse_list,
        "frames": _parse_frame_list,
        "csv": functools.partial(_parse_csv, multi_label=multi_label),
        "jsonl": functools.partial(_parse_json_rows, multi_label=multi_label),
    }
    rows = parsers[kind](text, path)
    if not rows:
        raise InputError(f"The annotation file {path!r} lists no videos.")
    return [_with_label_set(row, path) for row in rows] if multi_label else rows


def _with_label_set(row: AnnotationRow, path: str) -> AnnotationRow:
    """Return the row with its label split at each `;`, unless it is a tuple already."""
    if isinstance(row.label, tuple):
        return row
    labels = tuple(label.strip() for label in row.label.split(";")) if row.label else ()
    # With a space after a `;`, as in `a.mp4 run; jump`, the path would be `a.mp4 run;`.
    if row.path.endswith(";") or not all(labels):
        expected = "a path and labels with nothing but a `;` between them"
        raise bad_line(path, row.line, expected, f"{row.path} {row.label}")
    return row._replace(label=labels)


def _parse_list(text: str, path: str) -> list[AnnotationRow]:
    """Parse lines of `path label`; the label is the last field, so paths may contain spaces."""
    rows = []
    for number, line in numbered_lines(text):
        match = _PATH_AND_LABEL.fullmatch(line.strip(" \t"))
        if not match:
            raise bad_line(path, number, "`path label`", line)
        rows.append(AnnotationRow(number, path=match[1], label=match[2]))
    return rows


def _parse_frame_list(text: str, path: str) -> list[AnnotationRow]:
    """Parse lines of `folder number-of-frames label`."""
    rows = []
    for number, line in numbered_lines(text):
        match = _FOLDER_FRAMES_LABEL.fullmatch(line.strip(" \t"))
        if not match or not int(match[2]):
            raise bad_line(path, number, "`folder number-of-frames label`", line)
        rows.append(AnnotationRow(number, match[1], match[3], num_frames=int(match[2])))
    return rows


def _parse_csv(text: str, path: str, *, multi_label: bool) -> list[AnnotationRow]:
    table = read_table(text, path, (PATH_KEYS, LABEL_KEYS))
    columns = [_first_key(table.header, keys) for keys in (PATH_KEYS, LABEL_KEYS)]
    if None in columns:
        raise InputError(
            f"{path!r} must open with a header that has a column {'/'.join(PATH_KEYS)} and a "
            f"column {'/'.join(LABEL_KEYS)}, but it reads {', '.join(table.header)[:300]!r}: add "
            "it, or set the data format to list for lines of `path label`.",
            ["the data format"],
        )
    rows = []
    for line, record in table.records:
        video, label = (record[column] for column in columns if column)
        if not video or not (label or multi_label):
            raise bad_line(path, line, "a path and a label", ",".join([video, label]))
        rows.append(AnnotationRow(line, path=video, label=label))
    return rows


def _parse_json_rows(text: str, path: str, *, multi_label: bool) -> list[AnnotationRow]:
    """Parse one object a line, or one array of objects."""
    if text.lstrip().startswith("["):
        records = _parse_json_array(text, path)
    else:
        records = ((n, parse_json(line, path, n)) for n, line in numbered_lines(text))
    return [_json_row(number, record, path, multi_label) for number, record in records]


def _parse_json_array(text: str, path: str) -> Iterator[tuple[int, Any]]:
    """Yield (line number, value) of the values of an array."""
    decoder, position, line = json.JSONDecoder(), 0, 1
    for _ in parse_json(text, path):
        # The array is complete, so there is one `[` or `,` and white space before each value.
        start = _BEFORE_VALUE.match(text, position).end()
        line += text.count("\n", position, start)
        value, position = decoder.raw_decode(text, start)
        yield line, value
        line += text.count("\n", start, position)


def parse_json(text: str, path: str, number: int = 1) -> Any:
    """Parse the JSON `text`, which begins at line `number` of the file `path`.

    Raises:
      InputError: it is not JSON; the message names the line.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = number + error.lineno - 1
        raise InputError(f"{path!r}, line {line}: this is not JSON ({error.msg}).") from error
    except (RecursionError, ValueError) as error:
        raise InputError(
            f"{path!r}, line {number}: expected a JSON object or array but this one has a number "
            "or a nesting that is too long: correct it."
        ) from error


def _json_row(number: int, record: Any, path: str, multi_label: bool) -> AnnotationRow:
    fields = record if isinstance(record, dict) else {}
    keys = [_first_key(fields, keys) for keys in (PATH_KEYS, LABEL_KEYS)]
    video, label = (fields.get(key) for key in keys)
    labels = label if isinstance(label, list) else [label]
    if not _is_path(video) or not all(map(_is_label, labels)):
        shown = json.dumps(record, ensure_ascii=False)
        expected = f'an object such as {{"path": "a.mp4", "label": {[3, 5] if multi_label else 3}}}'
        raise bad_line(path, number, expected, shown)
    if multi_label and isinstance(label, list):
        return AnnotationRow(line=number, path=video, label=tuple(map(_label_text, labels)))
    if len(labels) != 1:
        raise InputError(
            f"{path!r}, line {number}: expected one label but {len(labels)} came: set "
            "config.data.multi_label to true if videos have sets of labels.",
            ["config.data.multi_label"],
        )
    return AnnotationRow(line=number, path=video, label=_label_text(labels[0]))


def _is_path(value: Any) -> TypeGuard[str]:
    return isinstance(value, str) and value != "" and not _NEVER_IN_PATHS.search(value)


def _is_label(value: Any) -> bool:
    if isinstance(value, str):
        return not value.isspace() and value != ""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _label_text(value: str | float) -> str:
    """Return a JSON label as text; pandas writes whole numbers as `1.0` if a label is missing."""
    is_whole = isinstance(value, float) and value.is_integer()
    return str(int(value) if is_whole else value)


def _first_key(fields: Container[str], keys: Iterable[str]) -> str | None:
    return next((key for key in keys if key in fields), None)
