"""The mesh, the partition rules and the sharding of batches."""

import subprocess
import sys
from typing import Any

import jax
import numpy as np
import pytest
from cheap_programs import device_environment
from jax.sharding import PartitionSpec

from vswin_jax.errors import InputError
from vswin_jax.models import create_model, init_params
from vswin_jax.sharding.mesh import (
    batch_shard_of_process,
    default_rules,
    host_batch_shard,
    make_mesh,
    match_rules,
    place_batch,
)

# This needs eight devices, and JAX fixes their number once per process.
LAYOUTS = """
import jax, numpy as np
from jax.sharding import PartitionSpec as P
from vswin_jax.sharding import mesh
from vswin_jax.errors import InputError

shapes = {"head": {"kernel": jax.ShapeDtypeStruct((16, 12), "float32"),
                   "bias": jax.ShapeDtypeStruct((12,), "float32")}}
whole = mesh.make_mesh(fsdp=4)
assert dict(whole.shape) == {"data": 2, "fsdp": 4, "model": 1, "window": 1}, whole
tree = (jax.ShapeDtypeStruct((), "int32"), [shapes, None])
laid = mesh.tree_shardings(tree, whole, mesh.default_rules(whole, shapes))
assert laid[0].spec == P() and laid[1][0]["head"]["kernel"].spec == P("fsdp")

batch = mesh.place_batch({"label": np.arange(16)}, whole)["label"]
assert [shard.data.tolist() for shard in batch.addressable_shards][:2] == [[0, 1], [2, 3]]
twice = mesh.place_batch({"label": np.arange(4)}, mesh.make_mesh(model=2))["label"]
assert [shard.data.tolist() for shard in twice.addressable_shards][:4] == [[0], [0], [1], [1]]

clips = {"video": np.arange(2 * 8 * 6).reshape(2, 1, 8, 6, 1, 1), "label": np.arange(2)}
for over, spec in [("time", P(("data", "fsdp"), None, "window")),
                   ("height", P(("data", "fsdp"), None, None, "window"))]:
    split = mesh.make_mesh(data=2, fsdp=1, window=2, devices=jax.devices()[:4])
    placed = mesh.place_batch(clips, split, over)
    assert placed["video"].sharding.spec == spec and placed["label"].sharding.spec == P(spec[0])
    assert (np.asarray(placed["video"]) == clips["video"]).all()
for call, message in [
    (lambda: mesh.place_batch({"label": np.arange(12)}, whole), "12 rows"),
    (lambda: mesh.make_mesh(data=3), "there are 8"),
    (lambda: mesh.make_mesh(fsdp=3), "there are 8"),
    (lambda: mesh.make_mesh(window=3), "data=2 x fsdp=1 x model=1 x window=3 needs 6 devices"),
    (lambda: mesh.place_batch(clips, mesh.make_mesh(window=4), "height"), "6 along height"),
]:
    try:
        call()
    except InputError as error:
        assert message in str(error), error
    else:
        raise AssertionError(message)
print("all layouts are right")
"""


def run_on_eight_devices(code: str) -> str:
    environment = device_environment(8)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_shardings_on_eight_devices() -> None:
    assert "all layouts are right" in run_on_eight_devices(LAYOUTS)


def test_a_mesh_takes_all_devices_under_four_names() -> None:
    mesh = make_mesh()
    assert mesh.axis_names == ("data", "fsdp", "model", "window")
    assert mesh.size == jax.device_count()


@pytest.mark.parametrize(
    "axes", [{"data": 0}, {"fsdp": 0}, {"data": -2}, {"model": -1}, {"window": 0}]
)
def test_axes_below_one_are_rejected(axes: dict[str, int]) -> None:
    with pytest.raises(InputError, match="Mesh axes must be 1 or above"):
        make_mesh(**axes)


def test_the_first_rule_that_is_found_in_a_path_wins() -> None:
    rules = [("bias$", PartitionSpec()), ("head", PartitionSpec("fsdp"))]
    assert match_rules(rules, ["head/bias", "head/kernel"]) == {
        "head/bias": PartitionSpec(),
        "head/kernel": PartitionSpec("fsdp"),
    }


def test_parameters_without_a_rule_are_listed() -> None:
    with pytest.raises(InputError, match="2 match none: norm/scale, head/kernel; add rules"):
        match_rules([("bias$", PartitionSpec())], ["head/bias", "norm/scale", "head/kernel"])


def test_one_device_replicates_everything() -> None:
    mesh = make_mesh(devices=jax.devices()[:1])
    params: dict[str, Any] = {"head": {"kernel": np.zeros((2, 3))}}
    assert default_rules(mesh, params) == [("^head/kernel$", PartitionSpec())]


def specs(variant: str, **sizes: int) -> dict[str, PartitionSpec]:
    model = create_model(variant)
    shapes = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
    sizes = {"data": 1, "fsdp": 1, "model": 1} | sizes
    mesh = jax.sharding.AbstractMesh(tuple(sizes.values()), tuple(sizes))
    return {path.strip("^$"): spec for path, spec in default_rules(mesh, shapes)}


def test_a_block_of_swin_large_over_both_axes() -> None:
    block = "layers_2/blocks_5"
    expected = {
        "attn/qkv/kernel": PartitionSpec("model", "fsdp"),
        "attn/qkv/bias": PartitionSpec(),
        "attn/relative_position_bias_table": PartitionSpec(None, "model"),
        "attn/proj/kernel": PartitionSpec("model", "fsdp"),
        "attn/proj/bias": PartitionSpec(),
        "mlp/fc1/kernel": PartitionSpec("fsdp", "model"),
        "mlp/fc1/bias": PartitionSpec("model"),
        "mlp/fc2/kernel": PartitionSpec("model", "fsdp"),
        "mlp/fc2/bias": PartitionSpec(),
        "norm1/scale": PartitionSpec(),
    }
    found = specs("swin_large", fsdp=8, model=4)
    assert {name: found[f"{block}/{name}"] for name in expected} == expected
    assert found["layers_2/downsample/reduction/kernel"] == PartitionSpec("fsdp")
    assert found["patch_embed/proj/kernel"] == PartitionSpec()


def test_attention_with_indivisible_heads_is_replicated() -> None:
    """Swin-T has 3 heads in the first stage and 6 in the second."""
    found = specs("swin_tiny", model=2)
    for name in ("qkv/kernel", "proj/kernel", "relative_position_bias_table"):
        assert found[f"layers_0/blocks_0/attn/{name}"] == PartitionSpec()
        assert found[f"layers_1/blocks_0/attn/{name}"] != PartitionSpec()
    assert found["layers_0/blocks_0/mlp/fc1/kernel"] == PartitionSpec(None, "model")


def test_axes_that_do_not_divide_a_parameter_are_dropped() -> None:
    """96 rows do not divide by 256, but 768 do."""
    found = specs("swin_tiny", fsdp=256)
    assert found["layers_0/blocks_0/attn/qkv/kernel"] == PartitionSpec()
    assert found["layers_3/blocks_0/attn/qkv/kernel"] == PartitionSpec("fsdp")


@pytest.mark.parametrize(
    ("owners", "shards"),
    [
        # Four hosts with two batch shards each, or one each: every host has its own rows.
        ([[0], [0], [1], [1], [2], [2], [3], [3]], [(0, 4), (1, 4), (2, 4), (3, 4)]),
        ([[0, 0], [1, 1], [2, 2], [3, 3]], [(0, 4), (1, 4), (2, 4), (3, 4)]),
        # `model` spans two hosts, or all of them.
        ([[0, 1], [0, 1], [2, 3], [2, 3]], [(0, 2), (0, 2), (1, 2), (1, 2)]),
        ([[0, 1, 2, 3]], [(0, 1)] * 4),
        # The order of devices along a torus may differ from the order of hosts.
        ([[2], [2], [0], [0], [3], [3], [1], [1]], [(1, 4), (3, 4), (0, 4), (2, 4)]),
    ],
)
def test_hosts_with_the_same_rows_have_the_same_batch_shard(
    owners: list[list[int]], shards: list[tuple[int, int]]
) -> None:
    assert [
        batch_shard_of_process(np.array(owners), process) for process in range(len(shards))
    ] == shards


@pytest.mark.parametrize("owners", [[[0, 0], [0, 1], [1, 1]], [[0], [0], [1]]])
def test_unequal_or_overlapping_shards_are_rejected(owners: list[list[int]]) -> None:
    with pytest.raises(InputError, match=r"unequal or overlapping.*mesh\.model"):
        batch_shard_of_process(np.array(owners), 0)


def test_one_host_loads_all_rows() -> None:
    assert host_batch_shard(make_mesh()) == (0, 1)


def test_a_placed_batch_has_the_same_rows() -> None:
    rows = np.arange(2 * jax.device_count() * 3).reshape(-1, 3)
    placed = place_batch({"video": rows}, make_mesh())["video"]
    np.testing.assert_array_equal(placed, rows)
