"""The benchmarks that need a GPU or minutes: what they count, and that each of their parts runs."""

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

pytestmark = pytest.mark.usefixtures("quick_compiler")

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
REGIONS = [[0] * 5 + [1] * 4, [2] * 9]


@pytest.fixture(autouse=True)
def beside_the_scripts(monkeypatch: pytest.MonkeyPatch) -> None:
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


def row(work: Any, rate: float, peak: int, error: str | None = None) -> dict[str, Any]:
    found = {"name": work.name, "error": error, "out_of_memory": bool(error)}
    if error is None:
        found |= {"clips_per_s": rate, "median_s": 1.0, "min_s": 1.0, "max_s": 1.0, "mfu": None}
        found |= {"first_call_s": 1.0, "peak_bytes": peak}
    return dataclasses.asdict(work) | found


def measured(work: Any) -> dict[str, Any]:
    """Ours fits 16 clips, with `xla` and in torchvision 8."""
    ours = work.attention == "auto" and work.contender == "vswin_jax"
    fits = work.clips <= (16 if ours else 8)
    return row(work, (3 if ours else 1) * work.clips, 10**9, None if fits else "no memory")


def test_batches_double_until_memory_ends(tmp_path: Path) -> None:
    throughput, kept_rows = module("throughput"), module("kept_rows")
    asked: list[tuple[str, int]] = []

    def measure(works: Sequence[Any]) -> list[dict[str, Any]]:
        asked.extend((work.name, work.clips) for work in works)
        return [measured(work) for work in works]

    path = tmp_path / "rows.json"
    assert throughput.measure_all(options(), True, kept_rows.KeptRows(path), measure)
    assert asked == [
        *[("vswin_jax", 8), ("vswin_jax", 16), ("vswin_jax", 32)],
        *[("vswin_jax, xla", 8), ("vswin_jax, xla", 16)],
        *[("torchvision eager", 8), ("torchvision eager", 16)],
    ]
    # A second run finds all in the file, and a wider one only measures what is new.
    kept = kept_rows.KeptRows(path)
    asked.clear()
    assert throughput.measure_all(options(), True, kept, measure)
    assert asked == []
    late = options(variants=["small"], minutes=-1.0)
    assert not throughput.measure_all(late, True, kept, measure)
    assert asked == []
    assert module("throughput_table").comparison(kept.rows) == [
        # 48 and 8 clips a second
        "tiny bfloat16: vswin_jax (at 16) has 6.00 times the clips/s of torchvision eager (at 8), "
        "with 1.00 of its memory",
        "tiny bfloat16: vswin_jax, xla (at 8) has 1.00 times the clips/s of torchvision eager "
        "(at 8), with 1.00 of its memory",
    ]


def test_on_a_cpu_all_are_alive_together() -> None:
    throughput = module("throughput")
    (group,) = throughput.groups(options(device="cpu", dtypes=["float32", "bfloat16"]), False)
    assert [(work.name, work.dtype) for work in group] == [
        (name, dtype)
        for dtype in ("float32", "bfloat16")
        for name in ("vswin_jax", "vswin_jax, xla", "torchvision eager")
    ]


def test_on_a_gpu_ours_runs_with_timed_kernels_too() -> None:
    both = options(attention=["auto"], autotune=[False, True])
    names = [[work.name for work in group] for group in module("throughput").groups(both, True)]
    assert names == [["vswin_jax"], ["vswin_jax, autotuned"], ["torchvision eager"]]


def work(**changes: Any) -> Any:
    fields = {
        **{"contender": "vswin_jax", "attention": "auto", "training": True, "variant": "smallest"},
        **{"embed_dim": 8, "depths": (1, 1), "num_heads": (1, 2), "dtype": "float32"},
        **{"device": "cpu", "clips": 1, "frames": 4, "size": 28, "autotune": False},
    }
    return module("model_worker").Work(**fields | changes)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("contender", ["vswin_jax", "torchvision eager"])
def test_models_run(training: bool, contender: str) -> None:
    if contender != "vswin_jax":
        pytest.importorskip("torch")
    answer = module("model_worker").answers(work(training=training, contender=contender))
    assert answer("first")["device"] == "cpu"
    assert 0 < answer("again")["seconds"] < 60
    assert answer("peak")["bytes"] > 10**7


def test_flops_of_a_call() -> None:
    # The published 88 GMAC of a clip of swin_tiny; a step is three forward passes.
    sizes = {"embed_dim": 96, "depths": (2, 2, 6, 2), "num_heads": (3, 6, 12, 24)}
    clip = work(**sizes, training=False, frames=32, size=224)
    flops_of = module("turns").flops_of
    assert round(flops_of(clip) / 2e9) == 88
    batch = dataclasses.replace(clip, training=True, clips=5)
    assert flops_of(batch) == 15 * flops_of(clip)


@pytest.mark.parametrize(
    ("error", "memory"),
    [
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes"), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (MemoryError(), True),
        (ValueError("no kernel"), False),
    ],
)
def test_failures_are_answers(error: Exception, memory: bool) -> None:
    def fail(task: str) -> dict[str, Any]:
        raise error

    answer = module("contenders").guarded(fail)("first")
    assert answer["out_of_memory"] is memory
    assert answer["error"].startswith(type(error).__name__)


@pytest.mark.parametrize("regions", [None, REGIONS], ids=["regular", "shifted"])
def test_sdpa_computes_the_same(regions: list[list[int]] | None) -> None:
    torch = pytest.importorskip("torch")
    worker = module("attention_worker")
    case = worker.Case(2, 2, 9, 3, regions, False, "float32")
    qkv, bias, grad = worker.jax_operands(case)
    ours = worker.jax_function(case, "xla")(qkv, bias, grad)
    mask = None
    if regions is not None:
        ids = torch.tensor(regions)
        mask = torch.where(ids[:, :, None] == ids[:, None, :], 0.0, -100.0)
    theirs = worker._torch_attention(*(torch.tensor(np.array(x)) for x in (qkv, bias)), mask)
    np.testing.assert_allclose(theirs.numpy(), ours, atol=1e-5)


def test_attention_alone_runs() -> None:
    worker = module("attention_worker")
    task = json.dumps(dataclasses.asdict(worker.Case(1, 2, 9, 3, REGIONS, True, "float32")))
    answer = worker.answers("xla", "cpu")(task)
    assert 0 < answer["seconds"] < 60
    # The gradients of qkv [1, 2, 9, 3, 3, 32] and of the bias [3, 9, 9], at least.
    assert answer["memory"] >= 4 * (2 * 9 * 3 * 3 * 32 + 3 * 9 * 9)
