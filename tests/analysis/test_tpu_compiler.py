"""Training steps compiled ahead of time by the real TPU compiler; CI has libtpu."""

import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="the TPU compiler comes with jax[tpu]"
)

PROGRAM = """
import json, jax, jax.numpy as jnp, optax
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P
from vswin_jax.models import create_model, init_params
topology = topologies.get_topology_desc("v5e:2x2", "tpu")
mesh = Mesh(topology.devices, ("data",), axis_types=(AxisType.Auto,))
model = create_model(
    "swin_tiny", 10, "bfloat16", depths=(2, 2), num_heads=(3, 6), attention="xla", remat="block"
)
def step(params, clips, labels):
    def loss(params):
        rngs = {"dropout": jax.random.key(0)}
        logits = model.apply({"params": params}, clips, True, rngs=rngs)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    return jax.tree.map(lambda p, g: p - g, params, jax.grad(loss)(params))
def placed(shape, spec):
    return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=NamedSharding(mesh, spec))
params = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
params = jax.tree.map(lambda leaf: placed(leaf, P()), params)
clips = placed(jax.ShapeDtypeStruct((4, 16, 112, 112, 3), jnp.bfloat16), P("data"))
labels = placed(jax.ShapeDtypeStruct((4,), jnp.int32), P("data"))
compiled = jax.jit(step).lower(params, clips, labels).compile()
memory = compiled.memory_analysis()
program = compiled.as_text()
print(json.dumps({
    "temporaries": memory.temp_size_in_bytes,
    "all_gathers": program.count(" all-gather("),
    "all_reduces": program.count("all-reduce"),
}))
"""


# The compiler's least effort takes a third of the time. It partitions a program over devices as
# the default effort does, but schedules and fuses less: it is for tests of the partitioning.
LEAST_EFFORT = {"JAX_EXEC_TIME_OPTIMIZATION_EFFORT": "-1.0"}


def printed_by(program: str, *arguments: str, **environment: str) -> Any:
    """Run a program and parse the last line of its output as JSON."""
    result = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", **environment},
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return json.loads(result.stdout.splitlines()[-1])


def test_a_data_parallel_step_compiles_for_four_chips() -> None:
    report = printed_by(PROGRAM, **LEAST_EFFORT)
    assert 0 < report["temporaries"] < 16 * 2**30
    assert report["all_reduces"] > 0
    assert report["all_gathers"] == 0


def dry_run(arguments: tuple[str, ...], *settings: str) -> tuple[int, list[str], str]:
    """Run the command line for four chips.

    Returns:
      The exit status, the lines of output with single blanks, and the log.
    """
    command = [sys.executable, "-m", "vswin_jax.main", *arguments, "--mode=dry_run"]
    command += [
        "--topology=v5litepod-4",
        "--config.train.grad_accum_steps=1",
        "--config.eval.num_clips=1",
    ]
    environment = dict(os.environ, PYTHONPATH=str(Path(__file__).parents[2]))
    # Users set neither of them.
    for name in ("JAX_PLATFORMS", "TPU_SKIP_MDS_QUERY"):
        environment.pop(name, None)
    done = subprocess.run([*command, *settings], capture_output=True, text=True, env=environment)
    return (
        done.returncode,
        [" ".join(line.split()) for line in done.stdout.splitlines()],
        done.stderr,
    )


def test_a_dry_run_for_a_tpu_slice(tiny_arguments: tuple[str, ...]) -> None:
    status, lines, log = dry_run(tiny_arguments, "--config.mesh.data=2", "--config.mesh.fsdp=2")
    assert status == 0, log
    assert "devices 4 x v5e: 15.8 GiB, 197 TFLOP/s (bfloat16), 819 GB/s, links 200 GB/s" in lines
    assert "mesh data 2 x fsdp 2 x model 1 x window 1" in lines
    assert sum("fits in 15.8 GiB" in line for line in lines) == 1
    assert any(line.startswith("step time at least") for line in lines)
    assert any(line.startswith("all-reduce") for line in lines)
    assert "topology v5e:2x2, 4 chips" in lines
    assert any(line.startswith("together") and "chip-hours" in line for line in lines)
    # libtpu logs no warning, and neither does anything else.
    assert [line for line in log.splitlines() if "compiling" not in line] == []


def test_a_step_that_does_not_fit_has_suggested_changes(tiny_arguments: tuple[str, ...]) -> None:
    status, lines, log = dry_run(tiny_arguments, "--config.train.batch_size=40000000")
    assert status == 1, log
    assert any("DOES NOT FIT in 15.8 GiB" in line for line in lines)
    advice = lines[lines.index("suggested changes") :]
    assert any("--config.model.remat=block" in line for line in advice)
    assert any("--config.train.grad_accum_steps=" in line for line in advice)


SHARED_CLIPS = """
import json, jax, jax.numpy as jnp, optax
from jax.sharding import NamedSharding, PartitionSpec as P
from vswin_jax.analysis.compiled_program import read_program
from vswin_jax.sharding.constraints import use_activation_mesh
from vswin_jax.sharding.mesh import make_mesh
from vswin_jax.models import create_model, init_params, split_clips
from vswin_jax.analysis.topologies import topology_devices
mesh = make_mesh(data=2, window=2, devices=topology_devices("v5e:2x2"))
model = create_model(
    "swin_tiny", 10, "bfloat16", depths=(2,), num_heads=(3,), attention="xla", remat="block"
)
model = split_clips(model, mesh, "time", (32, 28, 28))
def step(params, clips, labels):
    def loss(params):
        rngs = {"dropout": jax.random.key(0)}
        logits = model.apply({"params": params}, clips, True, rngs=rngs)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    with use_activation_mesh(mesh):
        return jax.tree.map(lambda p, g: p - g, params, jax.grad(loss)(params))
def placed(shape, dtype, *spec):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, P(*spec)))
params = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
params = jax.tree.map(lambda leaf: placed(leaf.shape, leaf.dtype), params)
clips = placed((4, 32, 28, 28, 3), jnp.bfloat16, "data", "window")
compiled = jax.jit(step).lower(params, clips, placed((4,), jnp.int32, "data")).compile()
print(json.dumps([
    [collective.kind, [array.shape for array in collective.operands], collective.times]
    for collective in read_program(compiled).collectives
]))
"""


def test_chips_that_share_a_clip_exchange_only_slabs() -> None:
    collectives = printed_by(SHARED_CLIPS, **LEAST_EFFORT)
    assert {kind for kind, *_ in collectives} == {"collective-permute", "all-reduce"}
    moved = [shapes for kind, shapes, _ in collectives if kind == "collective-permute"]
    # A slab is 4 x 7 x 7 of the 8 x 7 x 7 tokens of 96 channels of 2 clips per chip, in any layout.
    # It moves for the shift and its inverse: forward, again for remat, and backward.
    assert len(moved) == 6
    assert {math.prod(shape) for shapes in moved for shape in shapes} == {2 * 4 * 7 * 7 * 96}


OFFLOADED = """
import json, sys, jax, jax.numpy as jnp
sys.path.insert(0, sys.argv[1])
from optim_settings import optim_settings
from vswin_jax.training import offload
from vswin_jax.sharding.mesh import REPLICATED, batch_sharding, make_mesh
from vswin_jax.models import create_model, init_params
from vswin_jax.training.optimizer import make_optimizer
from vswin_jax.training.state import abstract_state
from vswin_jax.training.steps import make_train_step
from vswin_jax.analysis.topologies import topology_devices
mesh = make_mesh(devices=topology_devices("v5e:2x2"))
offload.check_supported(mesh.devices.flat)
model = create_model("swin_tiny", 10, "bfloat16", depths=(1,), num_heads=(3,), attention="xla")
shapes = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
optimizer = make_optimizer(optim_settings(), lambda step: 1.0, shapes, offloaded=True)
state = offload.moments_to_host(abstract_state(model, optimizer, mesh, REPLICATED))
def rows(dtype, *shape):
    return jax.ShapeDtypeStruct((4, *shape), dtype, sharding=batch_sharding(mesh))
batch = {
    "video": rows(jnp.uint8, 1, 4, 56, 56, 3), "label": rows(jnp.int32),
    "mask": rows(jnp.float32), "flip": rows(jnp.bool),
}
shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
step = make_train_step(model, optimizer, seed=0, num_classes=10, state_shardings=shardings)
memory = step.lower(state, batch).compile().memory_analysis()
def size(tree):
    return sum(leaf.dtype.itemsize * leaf.size for leaf in jax.tree.leaves(tree))
print(json.dumps({
    "moments": size(state.opt_state.inner),
    "params": size(state.params),
    "on_host": memory.host_argument_size_in_bytes,
    "left_on_host": memory.host_alias_size_in_bytes,
    "on_device": memory.argument_size_in_bytes,
}))
"""


def test_offloaded_moments_are_in_the_hosts_memory() -> None:
    """They are updated in place in host memory; small arrays are padded to tiles."""
    report = printed_by(OFFLOADED, str(Path(__file__).parents[1]))
    assert report["moments"] <= report["on_host"] < 1.25 * report["moments"]
    assert report["left_on_host"] == report["on_host"]
    assert report["params"] < report["on_device"] < 1.5 * report["params"]


KERNELS = """
import json, jax, jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P
from vswin_jax.analysis.hlo_cost import execution_bytes
from vswin_jax.analysis.hlo_text import parse_module
from vswin_jax.models import create_model, init_params
from vswin_jax.analysis.topologies import topology_devices
mesh = Mesh(topology_devices("v5e:2x2")[:1], ("data",), axis_types=(AxisType.Auto,))
model = create_model("swin_tiny", 10, "bfloat16", depths=(2,), num_heads=(3,), remat="block")
shapes = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
def placed(shape, dtype):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, P()))
params = jax.tree.map(lambda leaf: placed(leaf.shape, leaf.dtype), shapes)
clips = placed((2, 32, 112, 112, 3), jnp.bfloat16)
def loss(params, clips):
    return model.apply({"params": params}, clips).sum()
with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
    compiled = jax.jit(jax.grad(loss)).lower(params, clips).compile()
module = parse_module(compiled.as_text())
moved = {"kernels": 0.0, "others": 0.0}
for execution in module.executions:
    kernel = "tpu_custom_call" in execution.instruction.attributes
    moved["kernels" if kernel else "others"] += execution_bytes(module, execution) * execution.times
print(json.dumps(moved))
"""


def test_there_are_few_copies_between_the_kernels() -> None:
    """Copies between layouts once moved twice as many bytes as the kernels themselves."""
    moved = printed_by(KERNELS)
    assert moved["kernels"] > 0
    assert moved["others"] < 1.5 * moved["kernels"]
