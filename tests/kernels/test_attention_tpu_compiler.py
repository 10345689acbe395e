"""Tests that compile the kernels ahead of time with the TPU compiler of libtpu, which CI has."""

import importlib.util
import json
import os
import subprocess
import sys
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="the TPU compiler comes with jax[tpu]"
)

# Four chips of each kind, with clips sharded over data and heads over model. Each chip has 128
# lanes of heads, or 96 as in the first stage of swin_tiny.
PROGRAM = """
import json, re, sys, jax, jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P
from vswin_jax.attention import window_attention
from vswin_jax.analysis.topologies import topology_devices
def report(topology, model, tokens, heads, dtype="bfloat16", implementation="auto"):
    devices = topology_devices(topology)
    mesh = Mesh(
        [devices[i : i + model] for i in range(0, 4, model)], ("data", "model"),
        axis_types=(AxisType.Auto,) * 2,
    )
    def placed(shape, dtype, *spec):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, P(*spec)))
    def loss(qkv, bias, ids):
        out = window_attention(qkv, bias, ids, implementation=implementation)
        return (out.astype(jnp.float32) ** 2).sum()
    arguments = (
        placed((4, 4, tokens, 3, heads, 32), dtype, "data", None, None, None, "model"),
        placed((heads, tokens, tokens), jnp.float32, "model"),
        placed((4, tokens), jnp.int8),
    )
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        compiled = jax.jit(jax.grad(loss, (0, 1))).lower(*arguments).compile()
    program = compiled.as_text()
    return {
        "kernels": sorted(set(re.findall(r"%(window_attention\\w*)\\.\\d+ = ", program))),
        "logits": len(re.findall(rf"\\[[4-9]\\d*,\\d+,{tokens},{tokens}\\]", program)),
        "bytes": compiled.cost_analysis()["bytes accessed"],
    }
print(json.dumps([report(*case) for case in json.loads(sys.argv[1])]))
"""


def compile_all(*cases: tuple) -> list[dict[str, Any]]:
    command = [sys.executable, "-c", PROGRAM, json.dumps(cases)]
    environment = dict(os.environ, JAX_PLATFORMS="cpu")
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr[-2000:]
    return json.loads(result.stdout.splitlines()[-1])


def test_every_chip_and_size_compiles_with_the_kernels() -> None:
    reports = compile_all(
        ("v4:2x2x1", 2, 392, 8),
        ("v4:2x2x1", 1, 784, 4),
        ("v5e:2x2", 1, 392, 3),
        ("v5e:2x2", 1, 1152, 8),
        ("v5p:2x2x1", 2, 392, 8),
        ("v6e:2x2", 1, 392, 8, "float32"),
        ("v6e:2x2", 1, 98, 4),
    )
    for report in reports:
        assert report["kernels"] == ["window_attention", "window_attention_grad"]
        assert report["logits"] == 0


def test_fewer_bytes_than_xla() -> None:
    ours, xla = compile_all(("v5e:2x2", 1, 392, 4), ("v5e:2x2", 1, 392, 4, "bfloat16", "xla"))
    assert ours["bytes"] * 3 < xla["bytes"]
    assert xla["logits"] > 0
    assert xla["kernels"] == []
