"""Tests of the token kernels on several devices, and with the TPU compiler."""

import importlib.util
import json
import os
import subprocess
import sys
from typing import Any

import pytest
from cheap_programs import device_environment

# Gradients of a small model, by kernels on eight devices that share the clips, and by plain layers.
SHARDED = """
import json, jax, jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from vswin_jax.sharding.constraints import use_activation_mesh
from vswin_jax.models import create_model, init_params
mesh = jax.make_mesh((4, 2), ("data", "fsdp"), (AxisType.Auto,) * 2)
small = dict(embed_dim=16, depths=(2, 2), num_heads=(2, 4), window_size=(2, 4, 4))
def model(name):
    return create_model("swin_tiny", 5, **small, tokenwise=name, drop_path_rate=0.3)
params = init_params(model("xla"), jax.random.key(0))
clips = jax.random.normal(jax.random.key(1), (8, 4, 32, 32, 3))
def gradients(name, params, clips):
    def loss(params):
        rngs = {"dropout": jax.random.key(2)}
        return (model(name).apply({"params": params}, clips, True, rngs=rngs) ** 2).sum()
    return jax.grad(loss)(params)
expected = jax.jit(lambda p, x: gradients("xla", p, x))(params, clips)
with use_activation_mesh(mesh):
    placed = jax.device_put(clips, NamedSharding(mesh, P(("data", "fsdp"))))
    ours = jax.jit(lambda p, x: gradients("pallas_tpu", p, x))(params, placed)
relative_error = lambda a, b: float(jnp.abs(a - b).max() / (jnp.abs(b).max() + 1e-3))
print(json.dumps(max(jax.tree.leaves(jax.tree.map(relative_error, ours, expected)))))
"""

# Stages of swin_base and swin_tiny, compiled for four chips that share the clips.
TPU = """
import json, re, sys, jax, jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P
from vswin_jax.kernels import BranchParams, NormDenseParams, add_branches, should_fuse, norm_dense
from vswin_jax.analysis.topologies import topology_devices
def report(topology, tokens, channels, dtype):
    mesh = Mesh(topology_devices(topology)[:4], ("data",), axis_types=(AxisType.Auto,))
    def placed(*shape, dtype=jnp.float32, spec=P()):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))
    hidden, wide = 4 * channels, 3 * channels
    x = placed(8, tokens, channels, dtype=dtype, spec=P("data"))
    square, vector = placed(channels, channels), placed(channels)
    dense = NormDenseParams(vector, vector, placed(channels, wide), placed(wide))
    branches = BranchParams(square, vector, vector, vector, placed(channels, hidden),
                            placed(hidden), placed(hidden, channels), vector)
    def loss(x, factors, dense, branches):
        qkv, x = norm_dense(x, dense, 1e-5)
        x = add_branches(x, qkv[..., :channels], factors, branches, 1e-5)
        return (x.astype(jnp.float32) ** 2).sum()
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        if not should_fuse("auto", x, hidden, False):
            return []
        arguments = x, placed(2, 8, spec=P(None, "data")), dense, branches
        compiled = jax.jit(jax.grad(loss, (0, 2, 3))).lower(*arguments).compile()
    names = re.findall(r"%((?:norm_dense|add_branches)\\w*)\\.\\d+ = ", compiled.as_text())
    return sorted(set(names))
print(json.dumps([report(*case) for case in json.loads(sys.argv[1])]))
"""


def run(program: str, *arguments: str, **environment: str) -> Any:
    result = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu", **environment},
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.long
def test_devices_that_share_the_clips_sum_the_gradients() -> None:
    assert run(SHARDED, **device_environment(8)) < 1e-4


@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="the TPU compiler comes with jax[tpu]"
)
def test_every_chip_and_size_compiles_with_the_kernels() -> None:
    cases = [
        ("v4:2x2x1", 3136, 512, "bfloat16"),
        ("v4:2x2x1", 50176, 96, "bfloat16"),
        ("v5e:2x2", 50176, 128, "bfloat16"),
        ("v5e:2x2", 784, 1024, "bfloat16"),
        ("v5p:2x2x1", 12544, 256, "bfloat16"),
        ("v6e:2x2", 50176, 96, "float32"),
        ("v6e:2x2", 3137, 384, "bfloat16"),
    ]
    kernels = ["add_branches", "add_branches_grad", "norm_dense", "norm_dense_grad"]
    # 3137 tokens cannot be divided into blocks of whole tiles, and one block of all does not fit.
    expected = [kernels] * (len(cases) - 1) + [[]]
    assert run(TPU, json.dumps(cases)) == expected
