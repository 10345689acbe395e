"""The benchmark of the start: medians, ratios and the table."""

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def startup(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("startup")


def test_rows_have_medians_and_ratios(startup: ModuleType, tmp_path: Path) -> None:
    this, other = (startup.Checkout(name, tmp_path, tmp_path) for name in ("this", "against"))
    for mine, theirs in ((2.0, 4.0), (1.0, 10.0), (9.0, 8.0)):
        this.add("main, warm", mine)
        other.add("main, warm", theirs)
    (row,) = startup.result_rows([this, other])
    assert (row["median_s"], row["against_median_s"], row["ratio"]) == (2.0, 8.0, 0.25)
    assert json.loads(json.dumps(row))["seconds"] == [2.0, 1.0, 9.0]
    assert startup.format_row(row).split() == [
        *("main,", "warm", "2.00", "s", "against", "8.00", "s", "ratio", "0.25"),
    ]
    (alone,) = startup.result_rows([this])
    assert startup.format_row(alone).split() == ["main,", "warm", "2.00", "s"]
