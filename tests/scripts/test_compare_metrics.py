"""`scripts/compare_metrics.py`: equal runs, runs that differ, and a directory without metrics."""

import json
import runpy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "compare_metrics.py"


@pytest.fixture
def run() -> Callable[[Sequence[str]], int]:
    return runpy.run_path(str(SCRIPT))["run"]


def write_metrics(workdir: Path, *entries: dict[str, Any]) -> str:
    workdir.mkdir()
    lines = (json.dumps({"kind": "train", "step": n, **e}) for n, e in enumerate(entries, 1))
    (workdir / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return str(workdir)


def test_times_are_not_compared(
    run: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = write_metrics(tmp_path / "a", {"loss": 0.1, "data_wait": 0.5}, {"loss": 0.2})
    after = write_metrics(tmp_path / "b", {"loss": 0.1, "data_wait": 0.7}, {"loss": 0.2})
    assert run([before, after]) == 0
    assert capsys.readouterr().out == "0 of 2 entries differ\n"


def test_the_last_bit_counts_and_so_does_a_missing_step(
    run: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = write_metrics(tmp_path / "a", {"loss": 0.1}, {"loss": 0.2}, {"loss": 0.3})
    after = write_metrics(tmp_path / "b", {"loss": 0.1}, {"loss": 0.20000000000000004})
    assert run([before, after]) == 1
    printed = capsys.readouterr().out
    assert "train at step 2:" in printed
    assert "train at step 3:" in printed
    assert printed.endswith("2 of 3 entries differ\n")


def test_a_directory_without_metrics(
    run: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([write_metrics(tmp_path / "a", {}), str(tmp_path)]) == 2
    assert "metrics.jsonl' does not exist" in capsys.readouterr().err
