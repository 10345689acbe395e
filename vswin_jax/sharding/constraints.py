"""Sharding constraints on activations, by the logical names of their axes.

A model names the axes of its activations and does not depend on a mesh. Without a mesh `constrain`
does nothing; within `use_activation_mesh` the table `ACTIVATIONS` maps each name to mesh axes.
"""

import contextlib
from collections.abc import Iterator, Mapping

import jax
from jax.sharding import AxisType, Mesh, PartitionSpec

MeshAxes = str | tuple[str, ...] | None

BATCH_AXES = ("data", "fsdp")
WINDOW_AXIS = "window"
# The axes of a token grid `[D, H, W]` that the window axis can split, at their index in the grid.
SPLIT_AXES = ("time", "height")
# Logical axis name -> mesh axes. An axis whose name is not listed is replicated.
ACTIVATIONS: Mapping[str, MeshAxes] = {
    "batch": BATCH_AXES,
    "heads": "model",
    "hidden": "model",
    "rows": "model",  # of the qkv kernel, as it is stored
}

_ANY = PartitionSpec.UNCONSTRAINED


@contextlib.contextmanager
def use_activation_mesh(mesh: Mesh | None) -> Iterator[None]:
    """Set `mesh` as the mesh of `constrain` for what is traced inside; not for a single device."""
    if mesh is None or mesh.size == 1:
        yield
        return
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        yield


def constrain(x: jax.Array, *names: str) -> jax.Array:
    """Constrain the sharding of `x` and of its gradient by the names of its axes in `ACTIVATIONS`.

    An axis called "any" is left to the compiler. A mesh axis that does not divide the length of an
    array axis is not used for it.
    """
    sizes = _sizes()
    if not sizes:
        return x
    spec = PartitionSpec(*(_ANY if name == "any" else ACTIVATIONS.get(name) for name in names))
    return jax.lax.with_sharding_constraint(x, drop_indivisible_axes(spec, x.shape, sizes))


def is_sharded(name: str, length: int) -> bool:
    """Return True if `constrain` splits an axis of this name and length."""
    return _divisible_axes(ACTIVATIONS[name], length, _sizes()) is not None


def _sizes() -> dict[str, int]:
    """Return the sizes of the mesh axes that can split arrays; empty without one of our meshes."""
    mesh = jax.sharding.get_abstract_mesh()
    axis_types = zip(mesh.axis_names, mesh.axis_types, strict=True)
    # Inside `shard_map` axes are manual, and arrays are shards already.
    sizes = {axis: mesh.shape[axis] for axis, kind in axis_types if kind == AxisType.Auto}
    return sizes if sizes.keys() & {"data", "fsdp", "model"} else {}


def drop_indivisible_axes(
    spec: PartitionSpec, shape: tuple[int, ...], sizes: Mapping[str, int]
) -> PartitionSpec:
    """Return `spec` without the mesh axes that cannot split an array of `shape`.

    `sizes` are those of the mesh axes. An axis is dropped if it is missing from `sizes`, has size 1
    or does not divide the length that the mesh axes before it leave.
    """
    kept = [
        part if part is _ANY else _divisible_axes(part, length, sizes)
        for part, length in zip(spec, shape, strict=False)
    ]
    while kept and kept[-1] is None:
        kept.pop()
    return PartitionSpec(*kept)


def _divisible_axes(axes: MeshAxes, length: int, sizes: Mapping[str, int]) -> MeshAxes:
    kept: list[str] = []
    for axis in (axes,) if isinstance(axes, str) else axes or ():
        size = sizes.get(axis, 1)
        if size > 1 and length % size == 0:
            kept.append(axis)
            length //= size
    return tuple(kept) if len(kept) > 1 else kept[0] if kept else None
