"""shard_map wrappers for kernels that XLA's partitioner cannot split."""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from vswin_jax.sharding.constraints import BATCH_AXES, drop_indivisible_axes

# From qkv [B, W, N, 3, heads, dim], bias [heads, N, N] and segment ids [W, N] or None to
# [B, W, N, heads, dim].
Attention = Callable[[jax.Array, jax.Array, jax.Array | None], jax.Array]


def unsupported_reason() -> str | None:
    """Return the reason why no wrapper can be used, or None if one can or there is one device."""
    if jax.sharding.get_abstract_mesh().empty and jax.device_count() > 1:
        return "there are several devices, and no mesh is set for its shard_map"
    return None


def batch_unsupported_reason(clips: int) -> str | None:
    """Return the reason why `shard_map_batch` would not split a batch of `clips`, or None."""
    free = _free_axes(jax.sharding.get_abstract_mesh())
    shared = [axis for axis, size in free.items() if size > 1 and axis not in BATCH_AXES]
    if shared:
        return f"devices share each clip over the mesh axes {', '.join(shared)}"
    devices = math.prod(free.values())
    if clips % devices:
        return f"{clips} clips do not divide over {devices} devices"
    return unsupported_reason()


def shard_map_batch(function: Callable[..., jax.Array], batch: Any, *replicated: Any) -> jax.Array:
    """Call `function(batch, *replicated)` on each device with the clips of that device.

    `batch` is a tree of arrays `[B, ...]`, as is the result; `replicated` are trees of arrays that
    every device holds whole, so their gradients are summed over the devices. A batch that does not
    divide over the mesh axes data and fsdp is not split.
    """
    mesh = jax.sharding.get_abstract_mesh()
    free = _free_axes(mesh)
    rows = tuple(axis for axis in BATCH_AXES if free.get(axis, 1) > 1)
    clips = len(jax.tree.leaves(batch)[0])
    if not rows or clips % math.prod(free[axis] for axis in rows):
        return function(batch, *replicated)
    # Axes of size 1 are made manual too, so that as few as possible are left for the partitioner,
    # which cannot split a kernel.
    trivial = {axis for axis, size in free.items() if size == 1}
    return jax.shard_map(
        function,
        mesh=mesh,
        in_specs=(PartitionSpec(rows), *[PartitionSpec()] * len(replicated)),
        out_specs=PartitionSpec(rows),
        axis_names=trivial.union(rows),
        # Kernels in a custom gradient do not declare the axes along which their results vary.
        check_vma=False,
    )(batch, *replicated)


def shard_map_attention(
    attend: Attention, qkv: jax.Array, bias: jax.Array, segment_ids: jax.Array | None
) -> jax.Array:
    """Call `attend` on each device with its shards of the arguments.

    The batch is split over the mesh axes data and fsdp, windows over window and heads over model,
    as far as they divide; along any other mesh axis all devices compute the same.
    """
    mesh = jax.sharding.get_abstract_mesh()
    free = _free_axes(mesh)

    def attend_shard(qkv: jax.Array, bias: jax.Array, segment_ids: jax.Array | None) -> jax.Array:
        # Inside a `shard_map` all operands of a kernel must be marked as varying over the devices.
        varying = jax.typeof(qkv).manual_axis_type.varying
        bias, segment_ids = jax.tree.map(lambda x: _as_varying(x, varying), (bias, segment_ids))
        return attend(qkv, bias, segment_ids)

    if not free:
        return attend_shard(qkv, bias, segment_ids)
    return _shard_map_over(attend_shard, qkv, bias, segment_ids, mesh, free)


def _free_axes(mesh: AbstractMesh) -> dict[str, int]:
    """Return the sizes of the mesh axes that no enclosing `shard_map` has made manual."""
    return {
        axis: mesh.shape[axis]
        for axis, kind in zip(mesh.axis_names, mesh.axis_types, strict=True)
        if kind != AxisType.Manual
    }


def _shard_map_over(
    attend: Attention,
    qkv: jax.Array,
    bias: jax.Array,
    segment_ids: jax.Array | None,
    mesh: AbstractMesh,
    free: dict[str, int],
) -> jax.Array:
    ids_shape = () if segment_ids is None else segment_ids.shape
    qkv_spec = PartitionSpec(BATCH_AXES, "window", None, None, "model")
    out_spec = PartitionSpec(BATCH_AXES, "window", None, "model")
    return jax.shard_map(
        attend,
        mesh=mesh,
        in_specs=(
            drop_indivisible_axes(qkv_spec, qkv.shape, free),
            drop_indivisible_axes(PartitionSpec("model"), bias.shape, free),
            drop_indivisible_axes(PartitionSpec("window"), ids_shape, free),
        ),
        out_specs=drop_indivisible_axes(out_spec, (*qkv.shape[:3], *qkv.shape[4:]), free),
        axis_names=set(free),
        check_vma=False,
    )(qkv, bias, segment_ids)


def _as_varying(x: jax.Array, axes: frozenset[str]) -> jax.Array:
    missing = tuple(axes - jax.typeof(x).manual_axis_type.varying)
    return jax.lax.pcast(x, missing, to="varying") if missing else x
