"""Cache of benchmark rows in a JSON file, so that an interrupted benchmark can be resumed."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from json_files import read_json, write_json

Row = dict[str, Any]


class ResultCache:
    """The rows of a JSON file and the rows that were added.

    `error` is the message of a failed measurement, or None. Failures other than out-of-memory
    errors are dropped on reading, so that they are measured again.
    """

    def __init__(self, path: Path | None) -> None:
        """Read the rows at `path`; without a path the rows are in memory only."""
        self._path = path
        saved: list[Row] = read_json(path, default=[])
        self.rows = [row for row in saved if not row["error"] or row["out_of_memory"]]

    def find(self, fields: Mapping[str, Any]) -> Row | None:
        """Return the first row that has all of `fields`, or None."""
        expected = json.loads(json.dumps(fields))  # the file stores tuples as lists
        return next(
            (row for row in self.rows if all(row.get(k) == v for k, v in expected.items())), None
        )

    def add(self, rows: Iterable[Row], fields: Iterable[str]) -> None:
        """Add `rows`, which replace earlier rows with equal `fields`, and write the file."""
        names = list(fields)
        by_identity = {
            json.dumps([row.get(name) for name in names]): row for row in (*self.rows, *rows)
        }
        self.rows = list(by_identity.values())
        write_json(self._path, self.rows)
