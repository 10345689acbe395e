"""Each sharding strategy on eight devices: the losses of one device, and expected collectives."""

import json
import math
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from cheap_programs import device_environment
from jax.sharding import PartitionSpec
from layouts_program import CLASSES, ROWS, SHAPES, STRATEGIES

from vswin_jax.sharding.mesh import default_rules

pytestmark = pytest.mark.long

SPLIT = [name for name in STRATEGIES if "fsdp" in name]
WITH_MODEL = [name for name in STRATEGIES if "model" in name]
Shape = tuple[int, ...]


@pytest.fixture(scope="module")
def facts(once: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return once("layouts", lambda: compute(tmp_path_factory.mktemp("layouts") / "saved"))


def compute(saved: Path) -> dict[str, Any]:
    program = Path(__file__).parents[1] / "layouts_program.py"
    environment = device_environment(8)
    command = [sys.executable, str(program), str(saved)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "rematerialization" not in done.stderr, "a layout that XLA cannot reach efficiently"
    return json.loads(done.stdout.splitlines()[-1])


def result_shapes(facts: dict[str, Any], strategy: str, kind: str) -> Iterator[Shape]:
    """Yield the shapes of the results of all collectives of a kind."""
    for collective in facts[strategy]["collectives"]:
        if collective["kind"] == kind:
            yield from map(tuple, collective["shapes"])


def kinds(facts: dict[str, Any], strategy: str) -> set[str]:
    return {collective["kind"] for collective in facts[strategy]["collectives"]}


def sizes_of(strategy: str) -> dict[str, int]:
    axes = {"data": 1, "fsdp": 1, "model": 1} | STRATEGIES[strategy]
    rest = 8 // (axes["fsdp"] * axes["model"])
    return axes | {"data": rest}


def params_of(strategy: str) -> dict[str, tuple[Shape, PartitionSpec]]:
    """Return the shape and the spec of each parameter."""
    sizes = sizes_of(strategy)
    mesh = jax.sharding.AbstractMesh(tuple(sizes.values()), tuple(sizes))
    specs = dict(default_rules(mesh, SHAPES))
    flat = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(SHAPES)
    }
    return {path: (shape, specs[f"^{path}$"]) for path, shape in flat.items()}


def shard_shape(shape: Shape, spec: PartitionSpec, sizes: dict[str, int]) -> Shape:
    axes = [*spec, *[None] * (len(shape) - len(spec))]
    return tuple(n // sizes.get(axis, 1) for n, axis in zip(shape, axes, strict=True))


def smallest_activation(strategy: str) -> int:
    """Return the elements of a map of the second stage, [rows of a device, 3, 4, 4, 16]."""
    sizes = sizes_of(strategy)
    return ROWS // (sizes["data"] * sizes["fsdp"]) * 3 * 4 * 4 * 16


def largest_param() -> int:
    return max(leaf.size for leaf in jax.tree.leaves(SHAPES))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_losses_are_those_of_one_device(facts: dict[str, Any], strategy: str) -> None:
    """With dropout of all four kinds, mixup and erasing: no draw depends on the sharding."""
    losses = facts[strategy]["losses"]
    assert len(set(losses)) == 20
    np.testing.assert_allclose(losses, facts["one device"]["losses"], rtol=1e-4)
    assert facts[strategy]["keeps_layout"]


def test_replicated_training_only_reduces_gradients(facts: dict[str, Any]) -> None:
    assert kinds(facts, "data 8") == {"all-reduce", "collective-permute"}
    assert max(map(math.prod, result_shapes(facts, "data 8", "all-reduce"))) <= largest_param()
    assert largest_param() < smallest_activation("data 8")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_mixing_moves_one_clip_between_neighbours(facts: dict[str, Any], strategy: str) -> None:
    """The partner of a device's first clip is the last one of the device before it."""
    rows = {(1, 6, 32, 32, 3): "clip", (1, CLASSES): "target", (1,): "mask"}
    permuted = list(result_shapes(facts, strategy, "collective-permute"))
    found = Counter(rows[shape] for shape in permuted if shape in rows)
    assert found == {"clip": 1, "target": 1, "mask": 1}
    others = [shape for shape in permuted if shape not in rows]
    # If `fsdp` and `model` have the same size, XLA permutes the shards of kernels that only fsdp
    # splits to the other axis before it gathers them, and those of their gradients back.
    sizes = sizes_of(strategy)
    if 1 < sizes["fsdp"] == sizes["model"]:
        shards = {
            math.prod(shard_shape(shape, spec, sizes))
            for shape, spec in params_of(strategy).values()
            if "fsdp" in spec and "model" not in spec
        }
        others = [shape for shape in others if math.prod(shape) not in shards]
    assert not others


def by_size(shapes: Counter[Shape]) -> Counter[int]:
    sizes: Counter[int] = Counter()
    for shape, count in shapes.items():
        sizes[math.prod(shape)] += count
    return sizes


@pytest.mark.parametrize("strategy", SPLIT)
def test_fsdp_gathers_each_kernel_and_nothing_else(facts: dict[str, Any], strategy: str) -> None:
    sizes = sizes_of(strategy)
    whole = sizes | {"fsdp": 1}
    expected = Counter(
        shard_shape(shape, spec, whole)
        for shape, spec in params_of(strategy).values()
        if "fsdp" in spec
    )
    found = Counter(result_shapes(facts, strategy, "all-gather"))
    if sizes["model"] > 1:
        # The qkv bias is replicated, so its gradient is gathered from the heads.
        found -= Counter({(3, 2, 8): 1})
    # The qkv kernel may be gathered with its columns by head, [3, heads, dim].
    found, expected = by_size(found), by_size(expected)
    assert set(found) == set(expected)
    # The backward pass may gather a kernel again.
    assert all(expected[size] <= count <= 2 * expected[size] for size, count in found.items())
    assert "all-gather" not in kinds(facts, "data 8")
    assert sum(expected.values()) == 10


@pytest.mark.parametrize("strategy", ["fsdp 8", "data 2 x fsdp 4"])
def test_fsdp_reduces_gradients_and_no_activations(facts: dict[str, Any], strategy: str) -> None:
    allowed = {"all-gather", "all-reduce", "reduce-scatter", "collective-permute"}
    assert kinds(facts, strategy) <= allowed
    assert max(map(math.prod, result_shapes(facts, strategy, "all-reduce"))) <= largest_param()


@pytest.mark.parametrize("strategy", WITH_MODEL)
def test_model_parallel_reduces_two_activations_a_block_each_way(
    facts: dict[str, Any], strategy: str
) -> None:
    """Megatron's f and g: after proj and fc2, and in the backward pass before qkv and fc1.

    The one head of the first stage cannot be split, so there only the MLP is.
    """
    activations = [
        shape
        for shape in result_shapes(facts, strategy, "all-reduce")
        if math.prod(shape) >= smallest_activation(strategy)
    ]
    assert len(activations) == 2 + 4
    assert max(map(math.prod, result_shapes(facts, strategy, "all-gather"))) <= largest_param()


@pytest.mark.parametrize("strategy", WITH_MODEL)
def test_the_qkv_kernel_is_resharded_to_heads_by_an_all_to_all(
    facts: dict[str, Any], strategy: str
) -> None:
    """The kernel in the forward pass and its gradient in the backward pass."""
    exchanged = [math.prod(shape) for shape in result_shapes(facts, strategy, "all-to-all")]
    # A device holds half of the rows of [16, 3, 2, 8], and receives a quarter from each of the two.
    assert exchanged == [16 * 3 * 16 // 4] * 4


def test_the_state_is_created_sharded(facts: dict[str, Any]) -> None:
    """Four copies, parameters, average and two moments, and no array is whole during creation."""
    shards = {}
    for strategy in STRATEGIES:
        sizes = sizes_of(strategy)
        shards[strategy] = sum(
            math.prod(shard_shape(shape, spec, sizes))
            for shape, spec in params_of(strategy).values()
        )
    counters = 6 * 4
    for strategy, shard in shards.items():
        assert facts[strategy]["bytes"] == 4 * 4 * shard + counters
    # A quarter of this small model is norms, biases and bias tables, which are replicated.
    assert shards["fsdp 8"] < shards["data 8"] / 3
    assert facts["fsdp 8"]["largest_of_init"] < largest_param()


@pytest.mark.parametrize("strategy", ["one device", "fsdp 8", "data 4 x model 2"])
def test_a_checkpoint_of_fsdp_restores_and_evaluates_with_any_strategy(
    facts: dict[str, Any], strategy: str
) -> None:
    assert facts[strategy]["restored"]
    assert facts[strategy]["restored_layout"]
    np.testing.assert_allclose(
        facts[strategy]["scores"], facts["one device"]["scores"], rtol=1e-4, atol=1e-6
    )
