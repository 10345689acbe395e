"""Tables in CSV as spreadsheet programs and pandas write them."""

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from vswin_jax.errors import InputError
from vswin_jax.runtime.text_files import bad_line, numbered_lines

# Spreadsheet programs write `;` where the decimal sign is a comma, and tabs on request.
_DELIMITERS = ",;\t"
_EXCEL_SEPARATOR = re.compile(r'"?sep=([,;|\t])"?[\r\n]', re.IGNORECASE)
_WHITE_SPACE = " \t\r\n"  # a no-break space, unlike these, may belong to a name
_MAX_HEADER = 10_000  # characters of the first line; csv raises an error for far longer ones


class CsvTable(NamedTuple):
    """A table whose first row is a header.

    Attributes:
      header: the names of the columns, in lower case.
      records: yields, for each row, the number of its first line and its cells by column.
    """

    header: tuple[str, ...]
    records: Iterator[tuple[int, dict[str, str]]]


def read_table(text: str, path: str, columns: Sequence[Sequence[str]]) -> CsvTable:
    """Parse a table with `,`, `;` or tabs between its cells.

    Args:
      text: the table.
      path: the file that holds it, for error messages.
      columns: the columns that the caller will use, each as the names that it may have.

    Raises:
      InputError: the text is not CSV, or one of these columns comes twice; from the records, a row
        has more cells than the header.
    """
    hint = _EXCEL_SEPARATOR.match(text)
    rows = csv_rows(text, path, hint[1] if hint else _find_delimiter(text, columns))
    if hint:
        next(rows)
    header = tuple(cell.lower() for cell in next(rows, (1, []))[1])
    used = Counter(name for name in header if any(name in names for names in columns))
    repeated = next((name for name, count in used.items() if count > 1), None)
    if repeated is not None:
        raise InputError(
            f"Expected every column of {path!r} once but {repeated!r} comes {used[repeated]} "
            "times: rename or remove the others."
        )
    return CsvTable(header, _records(rows, path, header))


def _find_delimiter(text: str, columns: Sequence[Sequence[str]]) -> str:
    """Return the delimiter with which the first line has all of the columns, by default a comma."""
    _, line = next(numbered_lines(text), (1, ""))

    def has_columns(delimiter: str) -> bool:
        cells = next(csv.reader([line[:_MAX_HEADER]], delimiter=delimiter, skipinitialspace=True))
        header = {cell.strip(_WHITE_SPACE).lower() for cell in cells}
        return all(header.intersection(names) for names in columns)

    return next(filter(has_columns, _DELIMITERS), _DELIMITERS[0])


def _records(
    rows: Iterator[tuple[int, list[str]]], path: str, header: Sequence[str]
) -> Iterator[tuple[int, dict[str, str]]]:
    for line, cells in rows:
        if any(cells[len(header) :]):
            expected = f"{len(header)} cells as in the header (quote a cell that has a delimiter)"
            raise bad_line(path, line, expected, ",".join(cells))
        missing = [""] * (len(header) - len(cells))
        yield line, dict(zip(header, cells + missing, strict=False))


def csv_rows(text: str, path: str, delimiter: str = ",") -> Iterator[tuple[int, list[str]]]:
    """Yield (number of the first line, cells without white space) of the rows that are not blank.

    Raises:
      InputError: the text is not CSV; the message names the line.
    """
    # Lines keep their ends here, which may be part of a quoted cell.
    lines = io.StringIO(text, newline="")
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True)
    first = 1
    try:
        for cells in reader:
            cells = [cell.strip(_WHITE_SPACE) for cell in cells]
            if any(cells):
                yield first, cells
            first = reader.line_num + 1
    except csv.Error as error:
        raise InputError(
            f"{path!r}, line {first}: this row is not CSV ({error}): check its quotes."
        ) from error
