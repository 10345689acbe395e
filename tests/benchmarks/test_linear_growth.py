"""Tests of the cost of a clip by its length: the report's arithmetic, and the model's programs."""

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np
import pytest

from vswin_jax.analysis.compiled_program import read_program
from vswin_jax.models import create_model, init_params

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("scaling_report")


@pytest.fixture
def benchmark(report: ModuleType) -> ModuleType:
    return importlib.import_module("linear_growth")


def row(frames: int, memory: float, platform: str = "v5e:1x1", **changed: Any) -> dict[str, Any]:
    names = {"variant": "tiny", "depths": [2], "size": 28, "clips": 1, "program": "forward"}
    return {"platform": platform, **names, "frames": frames, "memory": memory, **changed}


def test_linear_cost_has_a_slope_and_an_intercept(report: ModuleType) -> None:
    # 32 per clip and 4 per frame are 6 per frame at 16 frames and 4.5 at 64.
    (curve,) = report.scaling_curves([row(64, 288.0), row(16, 96.0), row(32, 160.0)])
    assert curve.per_frame == {16: 6.0, 32: 5.0, 64: 4.5}
    assert curve.relative == pytest.approx({16: 4 / 3, 32: 10 / 9, 64: 1.0})
    assert curve.linear_fit == pytest.approx((4.0, 32.0))
    assert curve.without_intercept == pytest.approx({16: 1.0, 32: 1.0, 64: 1.0})
    assert "| 4.5 B | 1.333 | 1.111 | 1.000 | 8.0 frames | 0.0% |" in report.table([curve])


def test_superlinear_cost_deviates_from_the_fit(report: ModuleType) -> None:
    (curve,) = report.scaling_curves([row(n, n * n / 16) for n in (16, 32, 64, 128)])
    assert curve.relative[16] == 1 / 8
    assert max(curve.without_intercept.values()) > 1.2
    (two_lengths,) = report.scaling_curves([row(n, n * n / 16) for n in (16, 32)])
    assert report.table([two_lengths]).endswith("| - |")


def test_new_rows_replace_rows_of_earlier_calls(report: ModuleType) -> None:
    saved = [row(16, 1.0), row(32, 2.0), row(16, 3.0, "cpu"), row(32, 4.0, "cpu")]
    new = [row(32, 5.0), row(64, 6.0, "cpu")]
    # No old row of the CPU is left, since the machine's speed may have changed.
    assert [r["memory"] for r in report.merge_rows(saved, new)] == [1.0, 5.0, 6.0]
    other = [row(64, 7.0, "cpu", size=56)]
    assert report.merge_rows(saved, other) == saved + other


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--frames", "16", "24"), "Expected --frames in multiples of 16"),
        (("--depths", "1", "1", "1", "1", "1"), "Expected --depths of at most four stages"),
    ],
)
def test_invalid_arguments_are_refused(
    benchmark: ModuleType,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    assert benchmark.main(arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.long
def test_the_command_on_a_cpu(
    benchmark: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results, figure = tmp_path / "growth.json", tmp_path / "growth.png"
    arguments = ["--depths", "1", "--size", "28", "--frames", "32", "16", "--program", "forward"]
    arguments += ["--rounds", "1", "--json", str(results), "--plot", str(figure)]
    assert benchmark.main(arguments) == 0
    rows = json.loads(results.read_text())
    assert [r["frames"] for r in rows] == [16, 32]
    assert all(r["seconds"] > 0 for r in rows)
    # The memory includes the clip itself, with one byte per value.
    assert all(r["memory"] > r["frames"] * 28 * 28 * 3 for r in rows)
    assert "| cpu | tiny | 28 | 1 | forward | memory |" in capsys.readouterr().out
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_memory_and_arithmetic_of_the_model_grow_linearly() -> None:
    """Check that 128 more frames cost twice as much as 64 more frames.

    The shortest clip has 64 frames: for shorter ones the compiler evaluates some tables itself.
    """
    model = create_model(num_classes=3, embed_dim=8, depths=(2,), num_heads=(1,), attention="xla")
    params = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))

    def costs(frames: int) -> np.ndarray:
        clips = jax.ShapeDtypeStruct((1, frames, 56, 56, 3), np.float32)
        forward = jax.jit(lambda params, clips: model.apply({"params": params}, clips))
        program = read_program(forward.lower(params, clips).compile())
        return np.array([program.memory.temporaries, program.flops])

    short, double, quadruple = map(costs, (64, 128, 256))
    np.testing.assert_allclose((quadruple - double) / (double - short), 2.0, rtol=0.01)
