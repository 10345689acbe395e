"""Reading the lists that name videos and their labels: plain lines, CSV and JSON."""

import csv
import functools
import json
import os
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from vswin_jax.errors import InputError

PATH_KEYS = ("path", "video", "filename")
LABEL_KEYS = ("label", "class")


class Row(NamedTuple):
    """One video of a list: its line number, path and label as written, and frames if told.

    label: in a list of videos with sets of labels, all of them.
    """

    line: int
    path: str
    label: str | tuple[str, ...]
    total: int = 0


def read_annotations(path: str, kind: str, multi_label: bool = False) -> list[Row]:
    """The rows of an annotation file; `kind` is list, frames, csv or jsonl.

    With `multi_label` every label is a tuple: text is cut at each `;`, a list in JSON is taken as
    it is. An empty list in JSON and an empty cell in CSV are empty sets; the other kinds have none.

    Raises:
        InputError: the file is missing or empty, or a line cannot be understood (says which).
    """
    text = read_text(path)
    readers = {
        "list": _lines,
        "frames": _frame_lines,
        "csv": functools.partial(_csv, multi_label=multi_label),
        "jsonl": functools.partial(_json, multi_label=multi_label),
    }
    rows = readers[kind](text, path)
    if not rows:
        raise InputError(f"The annotation file {path!r} lists no videos.")
    return [_as_set(row, path) for row in rows] if multi_label else rows


def _as_set(row: Row, path: str) -> Row:
    if isinstance(row.label, tuple):
        return row
    labels = tuple(label.strip() for label in row.label.split(";")) if row.label else ()
    # In `a.mp4 run; jump` the path would be `a.mp4 run;`.
    if row.path.endswith(";") or not all(labels):
        expected = "a path and labels with nothing but a `;` between them"
        raise bad_line(path, row.line, expected, f"{row.path} {row.label}")
    return row._replace(label=labels)


def read_text(path: str) -> str:
    """All of a text file in UTF-8.

    Raises:
        InputError: it cannot be read or is not text.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            return file.read()
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path!r} is not a text file in UTF-8: give a list of videos, or a folder of classes."
        ) from error
    except OSError as error:
        raise InputError(
            f"The annotation file {path!r} cannot be read: {error.strerror}."
        ) from error


def _lines(text: str, path: str) -> list[Row]:
    """`path label`: the label is the last field, so that paths may have spaces."""
    rows = []
    for number, line in _numbered(text):
        fields = line.rsplit(None, 1)
        if len(fields) < 2:
            raise bad_line(path, number, "`path label`", line)
        rows.append(Row(number, fields[0].strip(), fields[1]))
    return rows


def _frame_lines(text: str, path: str) -> list[Row]:
    """`folder frames label`."""
    rows = []
    for number, line in _numbered(text):
        fields = line.rsplit(None, 2)
        if len(fields) < 3 or not fields[1].isdecimal() or not int(fields[1]):
            raise bad_line(path, number, "`folder number-of-frames label`", line)
        rows.append(Row(number, fields[0].strip(), fields[2], int(fields[1])))
    return rows


def _numbered(text: str) -> Iterable[tuple[int, str]]:
    lines = enumerate(text.splitlines(), start=1)
    return ((number, line) for number, line in lines if line.strip())


def _csv(text: str, path: str, *, multi_label: bool) -> list[Row]:
    reader = csv.DictReader(text.splitlines())
    header = {(name or "").strip().lower(): name for name in reader.fieldnames or ()}
    columns = [_find(header, keys) for keys in (PATH_KEYS, LABEL_KEYS)]
    if None in columns:
        raise InputError(
            f"{path!r} must open with a header that has a column {'/'.join(PATH_KEYS)} and a "
            f"column {'/'.join(LABEL_KEYS)}, but it reads {', '.join(reader.fieldnames or ())!r}."
        )
    rows = []
    for record in reader:
        values = [(record[header[column]] or "").strip() for column in columns if column]
        if not all(values[:1] if multi_label else values):
            raise bad_line(path, reader.line_num, "a path and a label", ",".join(values))
        rows.append(Row(reader.line_num, *values))
    return rows


def _json(text: str, path: str, *, multi_label: bool) -> list[Row]:
    """One object a line, or one array of objects."""
    if text.lstrip().startswith("["):
        records = enumerate(parse_json(text, path), start=1)
    else:
        records = ((number, parse_json(line, path, number)) for number, line in _numbered(text))
    return [_json_row(number, record, path, multi_label) for number, record in records]


def parse_json(text: str, path: str, number: int = 1) -> Any:
    """What the JSON `text` says, which begins at line `number` of the file `path`.

    Raises:
        InputError: it is not JSON; names the line.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = number + error.lineno - 1
        raise InputError(f"{path!r}, line {line}: this is not JSON ({error.msg}).") from error


def _json_row(number: int, record: Any, path: str, multi_label: bool) -> Row:
    fields = record if isinstance(record, dict) else {}
    keys = [_find(fields, keys) for keys in (PATH_KEYS, LABEL_KEYS)]
    video, label = (fields.get(key) for key in keys)
    labels = label if isinstance(label, list) else [label]
    if not isinstance(video, str) or not video or not all(map(_is_label, labels)):
        shown = json.dumps(record, ensure_ascii=False)
        expected = f'an object such as {{"path": "a.mp4", "label": {[3, 5] if multi_label else 3}}}'
        raise bad_line(path, number, expected, shown)
    if multi_label and isinstance(label, list):
        return Row(number, video, tuple(map(str, labels)))
    if len(labels) != 1:
        raise InputError(
            f"{path!r}, line {number}: expected one label but {len(labels)} came: set "
            "config.data.multi_label to true if videos have sets of labels."
        )
    return Row(number, video, str(labels[0]))


def _is_label(value: Any) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool) and value != ""


def _find(fields: Mapping[str, Any], keys: Iterable[str]) -> str | None:
    return next((key for key in keys if key in fields), None)


def bad_line(path: str, number: int, expected: str, line: str) -> InputError:
    """The error for a line that reads otherwise than `expected`."""
    return InputError(
        f"{os.fspath(path)!r}, line {number}: expected {expected} but it reads {line.strip()!r}."
    )
