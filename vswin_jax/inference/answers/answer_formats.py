"""Files of answers: JSON lines, CSV or Parquet, with the settings in a JSON file beside.

- jsonl: an object a line with video, truth (if known), classes, probabilities, scores (if all were
  asked for), or video and error
- csv: video, truth, class_1, probability_1, ..., error, and a column `score:CLASS` for each class;
  several true classes are joined by ";", or are a list in JSON if a name has ";" or begins with "["
- parquet: the columns of jsonl
"""

import csv
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vswin_jax.errors import InputError, first_line, unknown_name
from vswin_jax.inference.answers.answer_rows import Answer
from vswin_jax.inference.parquet_library import check_pyarrow
from vswin_jax.runtime.atomic_write import atomic_write, write_json
from vswin_jax.runtime.printable import encodable

_SETTINGS_SUFFIX = ".settings.json"
_SCORE = "score:"
# Joins the classes of a video with several, as in the lists that training reads.
_JOIN = ";"

Settings = Mapping[str, Any]


class AnswerFormat(NamedTuple):
    """The functions that write all answers of a file, with the names of classes, and read them."""

    write: Callable[[Path, Sequence[Answer], Sequence[str]], None]
    read: Callable[[Path], list[Answer]]


def format_of(path: Path) -> AnswerFormat:
    """Return the format that the suffix of `path` names.

    Raises:
      InputError: it names none, or Parquet and pyarrow is missing.
    """
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise unknown_name("suffix of a file of answers", suffix, FORMATS, "the suffix of out")
    if suffix == ".parquet":
        check_pyarrow()
    return FORMATS[suffix]


def settings_path(path: Path) -> Path:
    """Return the file with the settings of the answers in `path`."""
    return path.with_name(path.name + _SETTINGS_SUFFIX)


def write_settings(path: Path, settings: Settings) -> None:
    """Write the settings of the answers in `path`."""
    write_json(settings_path(path), settings, sync=True)


def read_settings(path: Path) -> dict[str, Any]:
    """Return the settings of the answers in `path`.

    Raises:
      InputError: there are none, or they are damaged.
    """
    file = settings_path(path)
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
        return {**settings, "label_names": tuple(settings["label_names"])}
    except (OSError, ValueError, LookupError, TypeError) as error:
        reason = first_line(error, 200)
        raise InputError(
            f"Expected answers of `python -m vswin_jax.predict` but {os.fspath(path)!r} has no "
            f"usable {file.name} beside it ({reason}): keep both files together."
        ) from error


def read_answers(path: Path) -> list[Answer]:
    """Return the answers in a file.

    Raises:
      InputError: there is no such file, or it is damaged.
    """
    try:
        return format_of(path).read(path)
    except (OSError, ValueError, LookupError, TypeError) as error:
        reason = first_line(error, 200)
        raise InputError(
            f"{os.fspath(path)!r} cannot be read as answers ({reason}): check the "
            f"path, or delete it and predict again."
        ) from error


def parse_line(line: bytes) -> Answer:
    """Return the answer of a line of JSON.

    Raises:
      KeyError, TypeError, ValueError: it is none.
    """
    return Answer.from_json(json.loads(line))


def format_line(answer: Answer) -> bytes:
    """Return an answer as a line of JSON."""
    # Names that are not UTF-8 have surrogates, which \u escapes keep.
    return json.dumps(answer.to_json()).encode() + b"\n"


def _write_jsonl(path: Path, answers: Sequence[Answer], label_names: Sequence[str]) -> None:
    with atomic_write(path, sync=True) as partial, partial.open("wb") as file:
        file.writelines(map(format_line, answers))


def _read_jsonl(path: Path) -> list[Answer]:
    with path.open("rb") as file:
        return [parse_line(line) for line in file if line.strip()]


def _write_csv(path: Path, answers: Sequence[Answer], label_names: Sequence[str]) -> None:
    with (
        atomic_write(path, sync=True) as partial,
        partial.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        csv.writer(file).writerows(_csv_rows(answers, label_names))


def _csv_rows(answers: Sequence[Answer], label_names: Sequence[str]) -> Iterator[list[Any]]:
    topk = max((len(answer.classes) for answer in answers), default=0)
    has_scores = any(answer.scores is not None for answer in answers)
    top = [f"{name}_{k}" for k in range(1, topk + 1) for name in ("class", "probability")]
    scores = [_SCORE + name for name in label_names] if has_scores else []
    yield ["video", "truth", *top, "error", *scores]
    for answer in answers:
        pairs = zip(answer.classes, answer.probabilities, strict=True)
        cells = [cell for pair in pairs for cell in pair]
        yield [
            *(answer.video, _truth_cell(answer.truth), *cells, *[""] * (2 * topk - len(cells))),
            answer.error or "",
            *(answer.scores or [""] * len(scores)),
        ]


def _truth_cell(truth: tuple[str, ...] | None) -> str:
    # A lone ";" is a known empty set of classes, an empty cell an unknown one.
    if truth is None:
        return ""
    is_plain = all(name and _JOIN not in name and not name.startswith("[") for name in truth)
    return _JOIN.join(truth) or _JOIN if is_plain else json.dumps([*truth])


def _parse_truth(cell: str) -> tuple[str, ...] | None:
    if cell.startswith("["):
        return tuple(map(str, json.loads(cell)))
    return tuple(filter(None, cell.split(_JOIN))) if cell else None


def _read_csv(path: Path) -> list[Answer]:
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = csv.reader(file)
        header = next(rows, [])
        # Found by position: several classes may have one name.
        error_column = header.index("error", 2)
        return [_answer_of_cells(row, error_column) for row in rows if row]


def _answer_of_cells(row: Sequence[str], error_column: int) -> Answer:
    top = row[2:error_column]
    probabilities = [*map(float, filter(None, top[1::2]))]
    scores = [*map(float, filter(None, row[error_column + 1 :]))]
    return Answer(
        video=row[0],
        truth=_parse_truth(row[1]),
        classes=tuple(top[: 2 * len(probabilities) : 2]),
        probabilities=tuple(probabilities),
        scores=tuple(scores) or None,
        error=row[error_column] or None,
    )


def _write_parquet(path: Path, answers: Sequence[Answer], label_names: Sequence[str]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    names, numbers = pa.list_(pa.string()), pa.list_(pa.float32())
    schema = pa.schema(
        [
            *(("video", pa.string()), ("truth", names), ("classes", names)),
            *(("probabilities", numbers), ("scores", numbers), ("error", pa.string())),
        ]
    )
    rows = [_encodable(answer.to_json()) for answer in answers]
    with atomic_write(path, sync=True) as partial:
        parquet.write_table(pa.Table.from_pylist(rows, schema=schema), partial)


def _encodable(value: Any) -> Any:
    """Replace what is not UTF-8, which Parquet cannot hold, by escapes."""
    if isinstance(value, str):
        return encodable(value)
    if isinstance(value, list):
        return [_encodable(item) for item in value]
    if isinstance(value, dict):
        return {name: _encodable(item) for name, item in value.items()}
    return value


def _read_parquet(path: Path) -> list[Answer]:
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        return [Answer.from_json(row) for row in file.read().to_pylist()]


FORMATS: Mapping[str, AnswerFormat] = {
    ".jsonl": AnswerFormat(_write_jsonl, _read_jsonl),
    ".csv": AnswerFormat(_write_csv, _read_csv),
    ".parquet": AnswerFormat(_write_parquet, _read_parquet),
}
