"""Reads annotation files, which list videos and their labels, as plain lines, CSV or JSON."""

import csv
import functools
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from vswin_jax.errors import InputError

PATH_KEYS = ("path", "video", "filename")
LABEL_KEYS = ("label", "class")


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


def read_text(path: str) -> str:
    """Read a text file in UTF-8.

    Raises:
      InputError: the file cannot be read or is not text.
    """
    try:
        # Spreadsheet programs begin CSV files with a byte order mark, which "utf-8-sig" removes.
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


def numbered_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield (line number, line) of the lines that are not blank."""
    lines = enumerate(text.splitlines(), start=1)
    return ((number, line) for number, line in lines if line.strip())


def _parse_list(text: str, path: str) -> list[AnnotationRow]:
    """Parse lines of `path label`; the label is the last field, so paths may contain spaces."""
    rows = []
    for number, line in numbered_lines(text):
        fields = line.rsplit(None, 1)
        if len(fields) < 2:
            raise bad_line(path, number, "`path label`", line)
        rows.append(AnnotationRow(line=number, path=fields[0].strip(), label=fields[1]))
    return rows


def _parse_frame_list(text: str, path: str) -> list[AnnotationRow]:
    """Parse lines of `folder number-of-frames label`."""
    rows = []
    for number, line in numbered_lines(text):
        fields = line.rsplit(None, 2)
        if len(fields) < 3 or not fields[1].isdecimal() or not int(fields[1]):
            raise bad_line(path, number, "`folder number-of-frames label`", line)
        folder, num_frames, label = fields
        rows.append(AnnotationRow(number, folder.strip(), label, num_frames=int(num_frames)))
    return rows


def _parse_csv(text: str, path: str, *, multi_label: bool) -> list[AnnotationRow]:
    reader = csv.DictReader(text.splitlines())
    header = {(name or "").strip().lower(): name for name in reader.fieldnames or ()}
    columns = [_first_key(header, keys) for keys in (PATH_KEYS, LABEL_KEYS)]
    if None in columns:
        raise InputError(
            f"{path!r} must open with a header that has a column {'/'.join(PATH_KEYS)} and a "
            f"column {'/'.join(LABEL_KEYS)}, but it reads {', '.join(reader.fieldnames or ())!r}."
        )
    rows = []
    for record in reader:
        video, label = ((record[header[column]] or "").strip() for column in columns if column)
        if not video or not (label or multi_label):
            raise bad_line(path, reader.line_num, "a path and a label", ",".join([video, label]))
        rows.append(AnnotationRow(line=reader.line_num, path=video, label=label))
    return rows


def _parse_json_rows(text: str, path: str, *, multi_label: bool) -> list[AnnotationRow]:
    """Parse one object a line, or one array of objects."""
    if text.lstrip().startswith("["):
        records = enumerate(parse_json(text, path), start=1)
    else:
        records = (
            (number, parse_json(line, path, number)) for number, line in numbered_lines(text)
        )
    return [_json_row(number, record, path, multi_label) for number, record in records]


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


def _json_row(number: int, record: Any, path: str, multi_label: bool) -> AnnotationRow:
    fields = record if isinstance(record, dict) else {}
    keys = [_first_key(fields, keys) for keys in (PATH_KEYS, LABEL_KEYS)]
    video, label = (fields.get(key) for key in keys)
    labels = label if isinstance(label, list) else [label]
    if not isinstance(video, str) or not video or not all(map(_is_label, labels)):
        shown = json.dumps(record, ensure_ascii=False)
        expected = f'an object such as {{"path": "a.mp4", "label": {[3, 5] if multi_label else 3}}}'
        raise bad_line(path, number, expected, shown)
    if multi_label and isinstance(label, list):
        return AnnotationRow(line=number, path=video, label=tuple(map(str, labels)))
    if len(labels) != 1:
        raise InputError(
            f"{path!r}, line {number}: expected one label but {len(labels)} came: set "
            "config.data.multi_label to true if videos have sets of labels."
        )
    return AnnotationRow(line=number, path=video, label=str(labels[0]))


def _is_label(value: Any) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool) and value != ""


def _first_key(fields: Mapping[str, Any], keys: Iterable[str]) -> str | None:
    return next((key for key in keys if key in fields), None)


def bad_line(path: str, number: int, expected: str, line: str) -> InputError:
    """Return the error for a line that differs from what was `expected`."""
    return InputError(
        f"{os.fspath(path)!r}, line {number}: expected {expected} but it reads {line.strip()!r}."
    )
