"""Sharding constraints by name, seen in the jaxpr, which needs no devices."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from vswin_jax.models import create_model, init_params
from vswin_jax.sharding.constraints import (
    constrain,
    drop_indivisible_axes,
    is_sharded,
    use_activation_mesh,
)
from vswin_jax.sharding.mesh import make_mesh

MESH = AbstractMesh((2, 4, 2), ("data", "fsdp", "model"), (AxisType.Auto,) * 3)
SIZES = {"data": 2, "fsdp": 4, "model": 2}


def constrained(mesh: AbstractMesh, shape: tuple[int, ...], *names: str) -> str:
    with use_activation_mesh(mesh):
        return str(jax.make_jaxpr(lambda x: constrain(x, *names))(jnp.zeros(shape)))


def test_nothing_is_constrained_without_several_devices() -> None:
    x = jnp.zeros((8, 4))
    assert constrain(x, "batch", "hidden") is x
    assert not is_sharded("hidden", 4)
    with use_activation_mesh(make_mesh(devices=jax.devices()[:1])):
        assert constrain(x, "batch", "hidden") is x
    with jax.sharding.use_abstract_mesh(AbstractMesh((2,), ("rows",), (AxisType.Auto,))):
        assert constrain(x, "batch", "hidden") is x


def test_the_program_of_one_device_has_no_constraints() -> None:
    model = create_model(
        "swin_tiny", 3, embed_dim=4, depths=(1,), num_heads=(2,), window_size=(2, 2, 2)
    )
    params = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
    clips = jax.ShapeDtypeStruct((8, 2, 8, 8, 3), jnp.float32)

    def program(mesh: AbstractMesh | None) -> str:
        def forward(params: object, clips: jax.Array) -> jax.Array:
            with use_activation_mesh(mesh):
                return model.apply({"params": params}, clips)

        return str(jax.make_jaxpr(forward)(params, clips))

    assert "sharding_constraint" not in program(None)
    assert program(MESH).count("sharding_constraint[") > 5


def test_names_become_axes_of_the_mesh() -> None:
    jaxpr = constrained(MESH, (8, 3, 6), "batch", "any", "hidden")
    assert "P(('data', 'fsdp'), UNCONSTRAINED, 'model')" in jaxpr


def test_constraints_inside_shard_map_do_nothing() -> None:
    mesh = make_mesh(devices=jax.devices()[:1])

    def double(x: jax.Array) -> jax.Array:
        assert constrain(x, "batch") is x
        return 2 * x

    spec = PartitionSpec("data")
    mapped = jax.shard_map(double, mesh=mesh, in_specs=spec, out_specs=spec)
    assert jax.jit(mapped)(jnp.ones(2)).tolist() == [2.0, 2.0]


def test_heads_are_split_where_they_divide() -> None:
    with use_activation_mesh(MESH):
        assert is_sharded("heads", 6)
        assert not is_sharded("heads", 3)


@pytest.mark.parametrize(
    ("spec", "shape", "kept"),
    [
        (("model", "fsdp"), (4, 8), ("model", "fsdp")),
        (("model", "fsdp"), (3, 8), (None, "fsdp")),
        (("model", "fsdp"), (4, 6), ("model",)),
        ((("data", "fsdp"),), (8, 5), (("data", "fsdp"),)),
        ((("data", "fsdp"),), (4, 5), ("data",)),
        ((("data", "fsdp"), "window"), (3, 5), ()),
    ],
)
def test_axes_that_do_not_divide_are_dropped(
    spec: tuple[object, ...], shape: tuple[int, ...], kept: tuple[object, ...]
) -> None:
    assert drop_indivisible_axes(PartitionSpec(*spec), shape, SIZES) == PartitionSpec(*kept)
