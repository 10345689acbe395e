"""The load report: the origin of each parameter, and the use of each tensor of a checkpoint."""

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

# matched: loaded unchanged; transformed: loaded after a change; fresh: left at its random initial
# value, as allowed; missing: a parameter for which the checkpoint has no tensor that fits;
# unexpected: a tensor for which the model has no parameter, which is left out.
STATUSES = ("matched", "transformed", "fresh", "missing", "unexpected")


@dataclass(frozen=True)
class LoadReportEntry:
    """The report on one tensor.

    Attributes:
      name: the canonical name.
      status: one of `STATUSES`.
      source_names: its names in the file; several if tensors were joined.
      how: a description of the change, or the reason why the tensor was not loaded.
    """

    name: str
    status: str
    source_names: tuple[str, ...] = ()
    how: str = ""


@dataclass(frozen=True)
class LoadReport:
    """An entry for each parameter of the model and for each unexpected tensor of the source.

    `notes` describe how the model was found in the source: prefixes that were removed, a choice.
    """

    source: str
    layout: str
    entries: tuple[LoadReportEntry, ...]
    notes: tuple[str, ...] = ()

    def named(self, status: str) -> tuple[str, ...]:
        """Return the names of the tensors with this status, one of `STATUSES`."""
        return tuple(entry.name for entry in self.entries if entry.status == status)

    def count(self, status: str) -> int:
        """Return the number of tensors with this status."""
        return len(self.named(status))

    def summary(self) -> str:
        """Return one line with the counts, and one each with notes and changes, if any."""
        counts = ", ".join(
            f"{self.count(status)} {status}"
            for status in STATUSES
            # A count of 0 is informative for every status but "missing", which is an error.
            if status != "missing" or self.count(status)
        )
        details = ("; ".join(self.notes), self._summarize_changes())
        lines = [f"  {detail}." for detail in details if detail]
        return "\n".join([f"{self.source} ({self.layout}): {counts}.", *lines])

    def _summarize_changes(self) -> str:
        groups: dict[str, list[str]] = {}
        for entry in self.entries:
            if entry.how or entry.status == "unexpected":
                groups.setdefault(entry.how or "left out", []).append(entry.name)
        return "; ".join(f"{_summarize_names(names)}: {how}" for how, names in groups.items())

    def to_json(self) -> dict[str, Any]:
        """Return the whole report in JSON types."""
        counts = Counter(entry.status for entry in self.entries)
        return {
            "source": self.source,
            "layout": self.layout,
            "counts": {status: counts[status] for status in STATUSES},
            "notes": list(self.notes),
            "tensors": [asdict(entry) for entry in self.entries],
        }

    def table(self) -> str:
        """Return a text table with a line for each tensor."""
        rows = [("status", "tensor", "in the file", "how")]
        rows += [(e.status, e.name, ", ".join(e.source_names), e.how) for e in self.entries]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = (
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            for row in rows
        )
        return "\n".join(line.rstrip() for line in lines)


def _summarize_names(names: list[str]) -> str:
    if len(names) < 3:
        return " and ".join(names)
    kinds = {name.rpartition(".")[2] for name in names}
    kind = f"{kinds.pop()}s" if len(kinds) == 1 else "tensors"
    return f"{len(names)} {kind}"
