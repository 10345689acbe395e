"""Where every tensor of a checkpoint went, and where every tensor of the model came from."""

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

# matched: the file's values; transformed: made from them; fresh: random, as it was asked for;
# missing: neither; unexpected: in the file but not in the model, and left out.
STATUSES = ("matched", "transformed", "fresh", "missing", "unexpected")


@dataclass(frozen=True)
class Entry:
    """What happened to one tensor.

    name: canonical; source_names: its names in the file, several where parts were joined; how: what
    was done to its values, or why they are not the file's.
    """

    name: str
    status: str
    source_names: tuple[str, ...] = ()
    how: str = ""


@dataclass(frozen=True)
class Report:
    """The account of one loading: every tensor of the model and of the file, once."""

    source: str
    layout: str
    entries: tuple[Entry, ...]

    def named(self, status: str) -> tuple[str, ...]:
        """The names of the tensors with this status, one of `STATUSES`."""
        return tuple(entry.name for entry in self.entries if entry.status == status)

    def count(self, status: str) -> int:
        """How many tensors have this status."""
        return len(self.named(status))

    def summary(self) -> str:
        """One line of numbers, and one of what was done where anything was."""
        counts = ", ".join(
            f"{self.count(status)} {status}"
            for status in STATUSES
            # Both are news; that there are none of the others is news as well.
            if status != "missing" or self.count(status)
        )
        numbers = f"{self.source} ({self.layout}): {counts}."
        done = self._what_was_done()
        return f"{numbers}\n  {done}." if done else numbers

    def _what_was_done(self) -> str:
        groups: dict[str, list[str]] = {}
        for entry in self.entries:
            if entry.how or entry.status == "unexpected":
                groups.setdefault(entry.how or "left out", []).append(entry.name)
        return "; ".join(f"{_those(names)}: {how}" for how, names in groups.items())

    def to_json(self) -> dict[str, Any]:
        """Everything, in types that JSON has."""
        counts = Counter(entry.status for entry in self.entries)
        return {
            "source": self.source,
            "layout": self.layout,
            "counts": {status: counts[status] for status in STATUSES},
            "tensors": [asdict(entry) for entry in self.entries],
        }

    def table(self) -> str:
        """A line for each tensor: its status, its name, its names in the file, what was done."""
        rows = [("status", "tensor", "in the file", "how")]
        rows += [(e.status, e.name, ", ".join(e.source_names), e.how) for e in self.entries]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = (
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            for row in rows
        )
        return "\n".join(line.rstrip() for line in lines)


def _those(names: list[str]) -> str:
    if len(names) < 3:
        return " and ".join(names)
    kinds = {name.rpartition(".")[2] for name in names}
    kind = f"{kinds.pop()}s" if len(kinds) == 1 else "tensors"
    return f"{len(names)} {kind}"
