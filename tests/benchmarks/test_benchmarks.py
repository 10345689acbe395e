"""Tests of the benchmarks that need a GPU or minutes: their arithmetic, and that each part runs."""

import argparse
import dataclasses
import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SEGMENT_IDS = [[0] * 5 + [1] * 4, [2] * 9]


@pytest.fixture(autouse=True)
def benchmarks_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def module(name: str) -> ModuleType:
    return importlib.import_module(name)


def options(**changes: Any) -> argparse.Namespace:
    settings = {
        **{"device": "gpu", "variants": ["tiny"], "dtypes": ["bfloat16"], "clips": [8, 16, 32]},
        **{"contenders": ["vswin_jax", "torchvision eager"], "attention": ["auto", "xla"]},
        **{"frames": 32, "size": 224, "minutes": None, "autotune": [False]},
    }
    return argparse.Namespace(**settings | changes)


def result_row(workload: Any, rate: float, peak: int, error: str | None) -> dict[str, Any]:
    result = {"name": workload.name, "error": error, "out_of_memory": bool(error)}
    if error is None:
        result |= {"clips_per_s": rate, "median_s": 1.0, "min_s": 1.0, "max_s": 1.0, "mfu": None}
        result |= {"first_call_s": 1.0, "peak_bytes": peak}
    return dataclasses.asdict(workload) | result


def fake_measurement(workload: Any) -> dict[str, Any]:
    """Return a row: the default attention fits 16 clips; `xla` and torchvision fit 8."""
    is_default = workload.attention == "auto" and workload.contender == "vswin_jax"
    error = None if workload.clips <= (16 if is_default else 8) else "no memory"
    rate = (3 if is_default else 1) * workload.clips
    return result_row(workload, rate=rate, peak=10**9, error=error)


def test_batches_double_until_memory_runs_out(tmp_path: Path) -> None:
    throughput, result_cache = module("throughput"), module("result_cache")
    measured: list[tuple[str, int]] = []

    def measure(workloads: Sequence[Any]) -> list[dict[str, Any]]:
        measured.extend((workload.name, workload.clips) for workload in workloads)
        return [fake_measurement(workload) for workload in workloads]

    path = tmp_path / "rows.json"
    assert throughput.measure_all(options(), True, result_cache.ResultCache(path), measure)
    assert measured == [
        *[("vswin_jax", 8), ("vswin_jax", 16), ("vswin_jax", 32)],
        *[("vswin_jax, xla", 8), ("vswin_jax, xla", 16)],
        *[("torchvision eager", 8), ("torchvision eager", 16)],
    ]
    # A second run finds all rows in the file. A new variant starts after its time has run out.
    cache = result_cache.ResultCache(path)
    measured.clear()
    assert throughput.measure_all(options(), True, cache, measure)
    assert measured == []
    late = options(variants=["small"], minutes=-1.0)
    assert not throughput.measure_all(late, True, cache, measure)
    assert measured == []
    assert module("throughput_table").compare_with_baselines(cache.rows) == [
        # 48 and 8 clips a second
        "tiny bfloat16: vswin_jax (at 16) has 6.00 times the clips/s of torchvision eager (at 8), "
        "with 1.00 of its memory",
        "tiny bfloat16: vswin_jax, xla (at 8) has 1.00 times the clips/s of torchvision eager "
        "(at 8), with 1.00 of its memory",
    ]


def test_a_workload_that_is_measured_again_has_one_row(tmp_path: Path) -> None:
    cache = module("result_cache").ResultCache(tmp_path / "rows.json")
    rows = [{"name": name, "error": None, "median_s": 2.0} for name in ("ours", "theirs")]
    cache.add(rows, fields=["name"])
    again = {"name": "ours", "error": None, "median_s": 1.0}
    cache.add([again], fields=["name"])
    assert cache.rows == [again, rows[1]]
    assert json.loads((tmp_path / "rows.json").read_text()) == cache.rows


def test_all_workloads_are_interleaved_on_a_cpu() -> None:
    throughput = module("throughput")
    both_dtypes = options(device="cpu", dtypes=["float32", "bfloat16"])
    (group,) = throughput.workload_groups(both_dtypes, False)
    assert [(workload.name, workload.dtype) for workload in group] == [
        (name, dtype)
        for dtype in ("float32", "bfloat16")
        for name in ("vswin_jax", "vswin_jax, xla", "torchvision eager")
    ]


def test_autotuned_kernels_are_measured_too_on_a_gpu() -> None:
    both = options(attention=["auto"], autotune=[False, True])
    groups = module("throughput").workload_groups(both, True)
    names = [[workload.name for workload in group] for group in groups]
    assert names == [["vswin_jax"], ["vswin_jax, autotuned"], ["torchvision eager"]]


def make_workload(**changes: Any) -> Any:
    fields = {
        **{"contender": "vswin_jax", "attention": "auto", "training": True, "variant": "smallest"},
        **{"embed_dim": 8, "depths": (1, 1), "num_heads": (1, 2), "dtype": "float32"},
        **{"device": "cpu", "clips": 1, "frames": 4, "size": 28, "autotune": False},
    }
    return module("model_worker").Workload(**fields | changes)


@pytest.mark.long
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("contender", ["vswin_jax", "torchvision eager"])
def test_models_run(training: bool, contender: str) -> None:
    if contender != "vswin_jax":
        pytest.importorskip("torch")
    workload = make_workload(training=training, contender=contender)
    handle = module("model_worker").make_task_handler(workload)
    assert handle("build")["device"] == "cpu"
    assert 0 < handle("measure")["seconds"] < 60
    assert handle("peak_memory")["bytes"] > 10**7


def test_flops_per_call() -> None:
    # The published 88 GMAC of a clip of swin_tiny; a step is three forward passes.
    sizes = {"embed_dim": 96, "depths": (2, 2, 6, 2), "num_heads": (3, 6, 12, 24)}
    clip = make_workload(**sizes, training=False, frames=32, size=224)
    flops_per_call = module("interleaved_runs").flops_per_call
    assert round(flops_per_call(clip) / 2e9) == 88
    batch = dataclasses.replace(clip, training=True, clips=5)
    assert flops_per_call(batch) == 15 * flops_per_call(clip)


@pytest.mark.parametrize(
    ("error", "memory"),
    [
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes"), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (MemoryError(), True),
        (ValueError("no kernel"), False),
    ],
)
def test_failures_become_replies(error: Exception, memory: bool) -> None:
    def fail(task: str) -> dict[str, Any]:
        raise error

    reply = module("worker_process").catch_errors(fail)("build")
    assert reply["out_of_memory"] is memory
    assert reply["error"].startswith(type(error).__name__)


@pytest.mark.parametrize("segment_ids", [None, SEGMENT_IDS], ids=["regular", "shifted"])
def test_sdpa_computes_the_same_attention(segment_ids: list[list[int]] | None) -> None:
    torch = pytest.importorskip("torch")
    worker = module("attention_worker")
    case = worker.AttentionCase(
        clips=2,
        windows=2,
        tokens=9,
        heads=3,
        segment_ids=segment_ids,
        backward=False,
        dtype="float32",
    )
    qkv, bias, output_grad = worker.jax_operands(case)
    ours = worker.jax_function(case, "xla")(qkv, bias, output_grad)
    mask = None
    if segment_ids is not None:
        ids = torch.tensor(segment_ids)
        mask = torch.where(ids[:, :, None] == ids[:, None, :], 0.0, -100.0)
    sdpa = worker._torch_attention(
        qkv=torch.tensor(np.array(qkv)), bias=torch.tensor(np.array(bias)), mask=mask
    )
    np.testing.assert_allclose(sdpa.numpy(), ours, atol=1e-5)


def test_attention_alone_runs() -> None:
    worker = module("attention_worker")
    case = worker.AttentionCase(
        clips=1,
        windows=2,
        tokens=9,
        heads=3,
        segment_ids=SEGMENT_IDS,
        backward=True,
        dtype="float32",
    )
    reply = worker.make_task_handler("xla", "cpu")(json.dumps(dataclasses.asdict(case)))
    assert 0 < reply["seconds"] < 60
    # The gradients of qkv [1, 2, 9, 3, 3, 32] and of the bias [3, 9, 9], at least.
    assert reply["memory"] >= 4 * (2 * 9 * 3 * 3 * 32 + 3 * 9 * 9)
