"""`metrics.jsonl`: the metrics of a run, one JSON object per line."""

import contextlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vswin_jax.runtime.atomic_write import atomic_write


class MetricsFile:
    """Appends to `metrics.jsonl`; floats are written so that they read back exactly.

    A value that is not finite is written as the string "nan", "inf" or "-inf" (which `float`
    parses), because JSON has no number for it.
    """

    def __init__(
        self, path: Path, start_step: int = 0, *, pending_evaluation: bool = False
    ) -> None:
        """Open `path` and drop the entries that a run resumed at `start_step` writes again.

        With `pending_evaluation` they include the evaluation of `start_step` itself.
        """
        _drop_entries_after(path, start_step, pending_evaluation)
        self._file = path.open("a", encoding="utf-8")

    def write(self, kind: str, step: int, metrics: Mapping[str, float]) -> None:
        """Append a line and flush it to the operating system, so that a kill cannot lose it."""
        values = {name: _json_number(value) for name, value in metrics.items()}
        entry = {"kind": kind, "step": int(step), **values}
        self._file.write(json.dumps(entry, allow_nan=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _json_number(value: float) -> float | int | str:
    number = value if isinstance(value, int) else float(value)
    return number if math.isfinite(number) else repr(number)


def read_metrics(path: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """Return the entries of a metrics file, of one `kind` if given; skip an incomplete line."""
    entries = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        # A kill in the middle of a write leaves half a line.
        with contextlib.suppress(json.JSONDecodeError):
            entries.append(json.loads(line))
    return [entry for entry in entries if kind in (None, entry["kind"])]


def _drop_entries_after(path: Path, step: int, pending_evaluation: bool) -> None:
    last_eval = step - 1 if pending_evaluation else step
    kept = [
        entry
        for entry in read_metrics(path)
        if entry["step"] <= (last_eval if entry["kind"] == "eval" else step)
    ]
    with atomic_write(path) as partial:
        partial.write_text("".join(json.dumps(entry) + "\n" for entry in kept), encoding="utf-8")
