"""Rows of a benchmark that are kept in a JSON file as they come, so that a run can go on later."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vswin_jax.runtime.atomic_write import whole_file

Row = dict[str, Any]


class KeptRows:
    """The rows in a file, with what is added; `error` says of each what failed, or is None."""

    def __init__(self, path: Path | None) -> None:
        """Reads what is there, but for failures that are worth another try.

        Without a path nothing is kept.
        """
        self._path = path
        saved: list[Row] = json.loads(path.read_text()) if path and path.exists() else []
        self.rows = [row for row in saved if not row["error"] or row["out_of_memory"]]

    def find(self, case: Mapping[str, Any]) -> Row | None:
        """The row whose fields have all the values of `case`."""
        wanted = json.loads(json.dumps(case))  # tuples are lists in the file
        return next(
            (row for row in self.rows if all(row.get(name) == wanted[name] for name in wanted)),
            None,
        )

    def add(self, rows: Iterable[Row]) -> None:
        """Keeps more rows, on the disk too."""
        self.rows += rows
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(self._path) as partial:
                partial.write_text(json.dumps(self.rows, indent=1) + "\n")
