"""A training step compiled ahead of time for GPUs; CI lacks that compiler because of its size."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        not any(importlib.util.find_spec(f"jax_cuda{version}_plugin") for version in (12, 13)),
        reason="XLA's compiler for GPUs comes with jax[cuda13]",
    ),
]

PROGRAM = """
import json, runpy, sys
import jax
from vswin_jax.analysis.dry_run import CompileTarget, compile_train_step
from vswin_jax.analysis.topologies import topology_devices
config = runpy.run_path("experiments/k400.py")["get_config"]("variant=tiny")
config.model.update(depths=(2, 2), num_heads=(3, 6), attention="gpu")
config.data.update(num_frames=16, size=112)
config.train.update(batch_size=16, grad_accum_steps=1)
config.mesh.fsdp = 4
config.train.autotune = sys.argv[1] == "True"
program = compile_train_step(CompileTarget.from_config(config, topology_devices("h200:8"))).program
print(json.dumps({
    "devices": program.devices, "calls": program.custom_calls, "flops": program.flops,
    "traffic": program.memory_traffic, "sent": program.wire_bytes,
}))
"""


@pytest.mark.parametrize("autotune", [False, True])
def test_a_step_for_eight_gpus_uses_cudnn_attention(autotune: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(autotune)],
        capture_output=True,
        text=True,
        env={name: value for name, value in os.environ.items() if name != "JAX_PLATFORMS"},
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["devices"] == 8
    attention = {name: n for name, n in report["calls"].items() if name.startswith("__cudnn$fmha")}
    # Each block has one forward and one backward call.
    assert attention == {
        "__cudnn$fmhaScaleBiasSoftmax": 4,
        "__cudnn$fmhaScaleBiasSoftmaxBackward": 4,
    }
    # Matrix products are calls of cuBLAS, unless autotuning lets XLA try its own kernels.
    assert any(name.startswith("__cublas") for name in report["calls"]) is not autotune
    assert report["flops"] > 5e10
    assert report["traffic"] > 1e8
    assert report["sent"] > 1e6
