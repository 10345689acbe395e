"""Collectives of FSDP on eight devices: each kernel is gathered, tokens are not."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from cheap_programs import device_environment

from vswin_jax.analysis.compiled_program import read_program
from vswin_jax.config import base_config
from vswin_jax.models import create_model, init_params
from vswin_jax.sharding.mesh import batch_sharding, default_rules, make_mesh
from vswin_jax.training.optimizer import make_optimizer
from vswin_jax.training.state import abstract_state
from vswin_jax.training.steps import make_train_step

pytestmark = pytest.mark.long

DEPTH, DIM, ROWS = 2, 32, 16


def main() -> None:
    """Print the collectives of a training step as JSON: kind, times, elements of its results."""
    narrow = {"embed_dim": DIM, "depths": (DEPTH,), "num_heads": (2,), "window_size": (2, 3, 3)}
    model = create_model("swin_tiny", 5, **narrow, remat="block")
    mesh = make_mesh(1, 8)
    shapes = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
    optimizer = make_optimizer(base_config().optim, lambda step: 1.0, shapes, -1)
    state = abstract_state(model, optimizer, mesh, default_rules(mesh, shapes))
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    step = make_train_step(
        model, optimizer, seed=0, num_classes=5, state_shardings=shardings, mesh=mesh
    )
    batch = {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=batch_sharding(mesh))
        for name, shape, dtype in (
            ("video", (ROWS, 1, 4, 24, 24, 3), jnp.uint8),
            ("label", (ROWS,), jnp.int32),
            ("mask", (ROWS,), jnp.float32),
            ("flip", (ROWS,), bool),
        )
    }
    found = read_program(step.lower(state, batch).compile()).collectives
    print(json.dumps([[c.kind, c.times, [a.size for a in c.results]] for c in found]))


@pytest.fixture(scope="module")
def collectives() -> list[tuple[str, int, list[int]]]:
    environment = device_environment(8)
    program = "import test_sharded_blocks as program; program.main()"
    result = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=environment,
        cwd=os.path.dirname(__file__),
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return json.loads(result.stdout.splitlines()[-1])


def test_each_kernel_is_gathered_separately(
    collectives: list[tuple[str, int, list[int]]],
) -> None:
    kernels = [DIM * 3 * DIM, DIM * DIM, DIM * 4 * DIM, DIM * 4 * DIM]
    gathered = [size for kind, _, sizes in collectives if kind == "all-gather" for size in sizes]
    # The kernels of each block, in the forward and in the backward pass.
    assert sum(size in kernels for size in gathered) == 2 * DEPTH * len(kernels)
    assert max(gathered) <= max(kernels)


def test_no_collective_moves_tokens(collectives: list[tuple[str, int, list[int]]]) -> None:
    assert {kind for kind, _, _ in collectives} <= {"all-gather", "all-reduce", "reduce-scatter"}
    tokens = ROWS // 8 * 2 * 6 * 6 * DIM
    reduced = [sizes for kind, _, sizes in collectives if kind != "all-gather"]
    assert max(size for sizes in reduced for size in sizes) < tokens


def test_the_gradient_of_the_table_is_reduced_instead_of_the_bias(
    collectives: list[tuple[str, int, list[int]]],
) -> None:
    reduced = {size for kind, _, sizes in collectives if kind == "all-reduce" for size in sizes}
    heads, rows, tokens = 2, 3 * 5 * 5, 2 * 3 * 3
    assert rows * heads in reduced
    assert heads * tokens * tokens not in reduced
