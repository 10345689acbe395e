import json
from pathlib import Path

import numpy as np
import pytest

from vswin_jax.reporting.metrics_file import MetricsFile, read_metrics


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
    first.write("eval", 20, {"top1": 0.5})
    first.close()
    with path.open("a") as file:
        file.write('{"kind": "train", "step": 40, "lo')
    resumed = MetricsFile(path, start_step=20)
    resumed.write("train", 30, {"loss": 0.25})
    resumed.close()
    steps = [(entry["kind"], entry["step"]) for entry in read_metrics(path)]
    assert steps == [("train", 10), ("train", 20), ("eval", 20), ("train", 30)]
    assert read_metrics(path, "train")[-1]["loss"] == 0.25
    assert read_metrics(path, "train")[0]["loss"] == 1.0 / 10
    assert [child.name for child in tmp_path.iterdir()] == ["metrics.jsonl"]
