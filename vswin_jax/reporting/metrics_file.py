"""`metrics.jsonl`: the metrics of a run, one JSON object per line."""

import contextlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vswin_jax.runtime.atomic_write import atomic_write

# Kinds of entries of older versions, and their present names.
_RENAMED = {"eval": "quick"}


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
        self._file.write(json.dumps(_entry(kind, step, metrics), allow_nan=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def write_entry_once(path: Path, kind: str, step: int, metrics: Mapping[str, float]) -> bool:
    """Write the one entry of a `kind` and a step, in place of an earlier one.

    Returns:
      True if there was none.
    """
    entries = read_metrics(path)
    others = [entry for entry in entries if (entry["kind"], entry["step"]) != (kind, step)]
    _write_entries(path, [*others, _entry(kind, step, metrics)])
    return len(others) == len(entries)


def _entry(kind: str, step: int, metrics: Mapping[str, float]) -> dict[str, Any]:
    values = {name: _json_number(value) for name, value in metrics.items()}
    return {"kind": kind, "step": int(step), **values}


def _json_number(value: float) -> float | int | str:
    number = value if isinstance(value, int) else float(value)
    return number if math.isfinite(number) else repr(number)


def read_metrics(path: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """Return the entries of a metrics file, of one `kind` if given; skip an incomplete line.

    Entries of the kind "eval", of older versions, have the kind "quick"; so does a `kind` "eval".
    """
    entries = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        # A kill in the middle of a write leaves half a line.
        with contextlib.suppress(json.JSONDecodeError):
            entries.append(json.loads(line))
    entries = [entry | {"kind": _RENAMED.get(entry["kind"], entry["kind"])} for entry in entries]
    return [entry for entry in entries if kind is None or _RENAMED.get(kind, kind) == entry["kind"]]


def _drop_entries_after(path: Path, step: int, pending_evaluation: bool) -> None:
    last_eval = step - 1 if pending_evaluation else step
    kept = [
        entry
        for entry in read_metrics(path)
        if entry["step"] <= (last_eval if entry["kind"] in ("quick", "final") else step)
    ]
    _write_entries(path, kept)


def _write_entries(path: Path, entries: Sequence[Mapping[str, Any]]) -> None:
    text = "".join(json.dumps(entry, allow_nan=False) + "\n" for entry in entries)
    with atomic_write(path) as partial:
        partial.write_text(text, encoding="utf-8")
