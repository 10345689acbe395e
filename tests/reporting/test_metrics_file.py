import json
from pathlib import Path

import numpy as np
import pytest

from vswin_jax.reporting.metrics_file import MetricsFile, read_metrics, write_entry_once


def test_floats_read_back_exactly(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    values = {"loss": np.float32(1 / 3), "top1": 0.1, "skipped_total": 3}
    file = MetricsFile(path)
    file.write("train", 7, values)
    file.close()
    assert read_metrics(path) == [
        {
            "kind": "train",
            "step": 7,
            "loss": float(np.float32(1 / 3)),
            "top1": 0.1,
            "skipped_total": 3,
        }
    ]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_stay_valid_json(value: float, tmp_path: Path) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    path = tmp_path / "metrics.jsonl"
    file = MetricsFile(path)
    file.write("train", 1, {"loss": np.float32(value)})
    entry = json.loads(path.read_text(), parse_constant=refuse)
    file.close()
    np.testing.assert_equal(float(entry["loss"]), value)


def test_a_resumed_run_drops_the_entries_that_it_writes_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    first = MetricsFile(path)
    for step in (10, 20, 30):
        first.write("train", step, {"loss": 1.0 / step})
    first.write("quick", 20, {"top1": 0.5})
    first.write("final", 30, {"top1": 0.5})
    first.close()
    with path.open("a") as file:
        file.write('{"kind": "train", "step": 40, "lo')
    resumed = MetricsFile(path, start_step=20)
    resumed.write("train", 30, {"loss": 0.25})
    resumed.close()
    steps = [(entry["kind"], entry["step"]) for entry in read_metrics(path)]
    assert steps == [("train", 10), ("train", 20), ("quick", 20), ("train", 30)]
    assert read_metrics(path, "train")[-1]["loss"] == 0.25
    assert read_metrics(path, "train")[0]["loss"] == 1.0 / 10
    assert [child.name for child in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_evaluations_of_older_versions_are_quick_ones(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    old = '{"kind": "train", "step": 2, "loss": 0.1}\n{"kind": "eval", "step": 2, "top1": 0.5}\n'
    path.write_text(old)
    quick = [{"kind": "quick", "step": 2, "top1": 0.5}]
    assert read_metrics(path, "quick") == read_metrics(path, "eval") == quick
    assert path.read_text() == old
    MetricsFile(path, start_step=2, pending_evaluation=True).close()
    assert read_metrics(path, "quick") == []
    assert [entry["loss"] for entry in read_metrics(path)] == [0.1]


def test_an_entry_that_is_written_once_replaces_that_of_its_step(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert write_entry_once(path, "final", 2, {"top1": 0.5})
    before = path.read_text()
    assert not write_entry_once(path, "final", 2, {"top1": 0.5})
    assert path.read_text() == before
    assert write_entry_once(path, "final", 4, {"top1": float("nan")})
    assert [entry["top1"] for entry in read_metrics(path, "final")] == [0.5, "nan"]
