"""Where the axes of an array lie on a mesh of devices, said in names.

A model names the axes of its activations and knows no mesh: without one `pin` does nothing, and
within `activations_on` the table below says which mesh axes each name is split over.
"""

import contextlib
from collections.abc import Iterator, Mapping

import jax
from jax.sharding import AxisType, Mesh, PartitionSpec

MeshAxes = str | tuple[str, ...] | None

BATCH_AXES = ("data", "fsdp")
WINDOW_AXIS = "window"
# The axes of a grid of tokens `[D, H, W]` that the window axis can split, at their index there.
SPLIT_AXES = ("time", "height")
# A name that is not here belongs to an axis that stays whole.
ACTIVATIONS: Mapping[str, MeshAxes] = {
    "batch": BATCH_AXES,
    "heads": "model",
    "hidden": "model",
    "rows": "model",  # of the qkv kernel, as it is stored
}

_ANY = PartitionSpec.UNCONSTRAINED


@contextlib.contextmanager
def activations_on(mesh: Mesh | None) -> Iterator[None]:
    """Within it, what is traced has its activations pinned to `mesh`; one device needs no pins."""
    if mesh is None or mesh.size == 1:
        yield
        return
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        yield


def pin(x: jax.Array, *names: str) -> jax.Array:
    """`x`, its axes laid out as `ACTIVATIONS` says of their `names`; its gradient too.

    An axis called "any" is left to the compiler. A mesh axis that does not divide a length is not
    used for it.
    """
    sizes = _sizes()
    if not sizes:
        return x
    wanted = PartitionSpec(*(_ANY if name == "any" else ACTIVATIONS.get(name) for name in names))
    return jax.lax.with_sharding_constraint(x, fitted(wanted, x.shape, sizes))


def splits(name: str, length: int) -> bool:
    """Whether `pin` splits an axis of this name and length."""
    return _dividing(ACTIVATIONS[name], length, _sizes()) is not None


def _sizes() -> dict[str, int]:
    """The sizes of the axes that arrays may be split over; none where there is no mesh of ours."""
    mesh = jax.sharding.get_abstract_mesh()
    kinds = zip(mesh.axis_names, mesh.axis_types, strict=True)
    # Inside `shard_map` axes are manual, and arrays are pieces already.
    sizes = {axis: mesh.shape[axis] for axis, kind in kinds if kind == AxisType.Auto}
    return sizes if sizes.keys() & {"data", "fsdp", "model"} else {}


def fitted(spec: PartitionSpec, shape: tuple[int, ...], sizes: Mapping[str, int]) -> PartitionSpec:
    """What of `spec` really splits an array of `shape`.

    `sizes` are those of the mesh axes. One that is not there, has size 1 or does not divide the
    length that the ones before it have left is dropped.
    """
    kept = [
        part if part is _ANY else _dividing(part, length, sizes)
        for part, length in zip(spec, shape, strict=False)
    ]
    while kept and kept[-1] is None:
        kept.pop()
    return PartitionSpec(*kept)


def _dividing(axes: MeshAxes, length: int, sizes: Mapping[str, int]) -> MeshAxes:
    kept: list[str] = []
    for axis in (axes,) if isinstance(axes, str) else axes or ():
        size = sizes.get(axis, 1)
        if size > 1 and length % size == 0:
            kept.append(axis)
            length //= size
    return tuple(kept) if len(kept) > 1 else kept[0] if kept else None
