"""What the compiler cannot divide, spread over a mesh: each device does what it holds."""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from vswin_jax.sharding.constraints import BATCH_AXES, fitted

# From qkv [B, W, N, 3, heads, dim], bias [heads, N, N] and region ids [W, N] or None to
# [B, W, N, heads, dim].
Attention = Callable[[jax.Array, jax.Array, jax.Array | None], jax.Array]


def refusal() -> str | None:
    """Why nothing can be spread here; None where it can, or one device needs no spreading."""
    if jax.sharding.get_abstract_mesh().empty and jax.device_count() > 1:
        return "there are several devices, and no mesh is set to spread it over"
    return None


def refusal_of_batch(clips: int) -> str | None:
    """Why `on_each_batch` would leave a batch of `clips` to the compiler on several devices."""
    free = _free_axes(jax.sharding.get_abstract_mesh())
    shared = [axis for axis, size in free.items() if size > 1 and axis not in BATCH_AXES]
    if shared:
        return f"devices share each clip over the mesh axes {', '.join(shared)}"
    devices = math.prod(free.values())
    if clips % devices:
        return f"{clips} clips do not divide over {devices} devices"
    return refusal()


def on_each_batch(function: Callable[..., jax.Array], batch: Any, *shared: Any) -> jax.Array:
    """`function(batch, *shared)`, called by each device on the clips that it holds.

    `batch` is a tree of arrays `[B, ...]`, as is the result; `shared` are trees of arrays that each
    device has whole, so that their gradients are summed over devices. Where clips do not divide
    over the mesh axes data and fsdp they stay together.
    """
    mesh = jax.sharding.get_abstract_mesh()
    free = _free_axes(mesh)
    rows = tuple(axis for axis in BATCH_AXES if free.get(axis, 1) > 1)
    clips = len(jax.tree.leaves(batch)[0])
    if not rows or clips % math.prod(free[axis] for axis in rows):
        return function(batch, *shared)
    # Axes of one device are made manual too, so that a kernel finds as few to split as it can.
    trivial = {axis for axis, size in free.items() if size == 1}
    return jax.shard_map(
        function,
        mesh=mesh,
        in_specs=(PartitionSpec(rows), *[PartitionSpec()] * len(shared)),
        out_specs=PartitionSpec(rows),
        axis_names=trivial.union(rows),
        # Kernels in a custom gradient do not say along which axes their results vary.
        check_vma=False,
    )(batch, *shared)


def on_each_device(
    attend: Attention, qkv: jax.Array, bias: jax.Array, regions: jax.Array | None
) -> jax.Array:
    """`attend`, called by each device on what it holds.

    That is, of the batch over the mesh axes data and fsdp, of windows over window, of heads over
    model, as far as they divide; along any other axis of the mesh devices do the same.
    """
    mesh = jax.sharding.get_abstract_mesh()
    free = _free_axes(mesh)

    def attend_here(qkv: jax.Array, bias: jax.Array, regions: jax.Array | None) -> jax.Array:
        # Inside a `shard_map` all operands of a kernel must be known to differ between devices.
        varying = jax.typeof(qkv).manual_axis_type.varying
        bias, regions = jax.tree.map(lambda x: _as_varying(x, varying), (bias, regions))
        return attend(qkv, bias, regions)

    if not free:
        return attend_here(qkv, bias, regions)
    return _over_axes(attend_here, qkv, bias, regions, mesh, free)


def _free_axes(mesh: AbstractMesh) -> dict[str, int]:
    """The sizes of the axes that nothing around has divided yet."""
    return {
        axis: mesh.shape[axis]
        for axis, kind in zip(mesh.axis_names, mesh.axis_types, strict=True)
        if kind != AxisType.Manual
    }


def _over_axes(
    attend: Attention,
    qkv: jax.Array,
    bias: jax.Array,
    regions: jax.Array | None,
    mesh: AbstractMesh,
    free: dict[str, int],
) -> jax.Array:
    ids = () if regions is None else regions.shape
    spec = fitted(PartitionSpec(BATCH_AXES, "window", None, None, "model"), qkv.shape, free)
    of_result = PartitionSpec(BATCH_AXES, "window", None, "model")
    return jax.shard_map(
        attend,
        mesh=mesh,
        in_specs=(
            spec,
            fitted(PartitionSpec("model"), bias.shape, free),
            fitted(PartitionSpec("window"), ids, free),
        ),
        out_specs=fitted(of_result, (*qkv.shape[:3], *qkv.shape[4:]), free),
        axis_names=set(free),
        check_vma=False,
    )(qkv, bias, regions)


def _as_varying(x: jax.Array, axes: frozenset[str]) -> jax.Array:
    missing = tuple(axes - jax.typeof(x).manual_axis_type.varying)
    return jax.lax.pcast(x, missing, to="varying") if missing else x
