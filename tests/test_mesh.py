import os
import subprocess
import sys
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from vswin_jax.errors import InputError
from vswin_jax.mesh import REPLICATED, default_rules, make_mesh, match_rules, place_batch

# What is asked of the layouts needs several devices, and JAX counts devices once a process.
LAYOUTS = """
import jax, numpy as np
from jax.sharding import PartitionSpec as P
from vswin_jax import mesh
from vswin_jax.errors import InputError

shapes = {"layers_0": {"kernel": jax.ShapeDtypeStruct((12, 16), "float32"),
                       "bias": jax.ShapeDtypeStruct((3,), "float32")}}
whole = mesh.make_mesh(fsdp=4)
assert dict(whole.shape) == {"data": 2, "fsdp": 4, "model": 1, "window": 1}, whole
assert dict(mesh.fsdp_rules(whole, shapes)) == {
    "^layers_0/kernel$": P(None, "fsdp"), "^layers_0/bias$": P()}
assert mesh.default_rules(whole, shapes) == mesh.fsdp_rules(whole, shapes)

state = {"params": shapes}
class Moments(tuple): pass
tree = (jax.ShapeDtypeStruct((), "int32"), [shapes, None])
laid = mesh.tree_shardings(tree, whole, mesh.default_rules(whole, shapes))
assert laid[0].spec == P() and laid[1][0]["layers_0"]["kernel"].spec == P(None, "fsdp")

batch = mesh.place_batch({"label": np.arange(16)}, whole)["label"]
assert [shard.data.tolist() for shard in batch.addressable_shards][:2] == [[0, 1], [2, 3]]

clips = {"video": np.arange(2 * 8 * 6).reshape(2, 1, 8, 6, 1, 1), "label": np.arange(2)}
for over, spec in [("time", P(("data", "fsdp"), None, "window")),
                   ("height", P(("data", "fsdp"), None, None, "window"))]:
    split = mesh.make_mesh(data=2, fsdp=1, window=2, devices=jax.devices()[:4])
    placed = mesh.place_batch(clips, split, over)
    assert placed["video"].sharding.spec == spec and placed["label"].sharding.spec == P(spec[0])
    assert (np.asarray(placed["video"]) == clips["video"]).all()
for call, words in [
    (lambda: mesh.place_batch({"label": np.arange(12)}, whole), "12 rows"),
    (lambda: mesh.make_mesh(data=3), "there are 8"),
    (lambda: mesh.make_mesh(fsdp=3), "there are 8"),
    (lambda: mesh.make_mesh(window=3), "data=2 x fsdp=1 x model=1 x window=3 needs 6 devices"),
    (lambda: mesh.place_batch(clips, mesh.make_mesh(window=4), "height"), "6 along height"),
    (lambda: mesh.default_rules(mesh.make_mesh(model=2), shapes), "mesh.model=1"),
]:
    try:
        call()
    except InputError as error:
        assert words in str(error), error
    else:
        raise AssertionError(words)
print("all layouts are right")
"""


def run_on_eight_devices(code: str) -> str:
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_layouts_of_eight_devices() -> None:
    assert "all layouts are right" in run_on_eight_devices(LAYOUTS)


def test_a_mesh_takes_all_devices_under_four_names() -> None:
    mesh = make_mesh()
    assert mesh.axis_names == ("data", "fsdp", "model", "window")
    assert mesh.size == jax.device_count()


@pytest.mark.parametrize(
    "axes", [{"data": 0}, {"fsdp": 0}, {"data": -2}, {"model": -1}, {"window": 0}]
)
def test_axes_below_one_are_refused(axes: dict[str, int]) -> None:
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
    assert default_rules(mesh, params) == REPLICATED


def test_a_placed_batch_has_the_same_rows() -> None:
    rows = np.arange(2 * jax.device_count() * 3).reshape(-1, 3)
    placed = place_batch({"video": rows}, make_mesh())["video"]
    np.testing.assert_array_equal(placed, rows)
