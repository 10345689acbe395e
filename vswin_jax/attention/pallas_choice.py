"""When the TPU kernels can be used, and how they are spread over a mesh of devices."""

import functools
import logging

import jax
import jax.numpy as jnp
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from vswin_jax.attention import pallas_tpu
from vswin_jax.attention.pallas_plan import Chip

log = logging.getLogger(__name__)

# The mesh axes over which each axis of qkv may lie.
_BATCH, _WINDOWS, _HEADS = ("data", "fsdp"), ("window",), ("model",)
# Without a TPU the kernels are interpreted, with the blocks of the smallest one.
_SMALLEST = Chip(vector_memory=16 * 2**20, cores=1)


def target() -> str:
    """The platform that the program being traced is for.

    That of the mesh that is set (`jax.set_mesh`), whose devices may be elsewhere; without a mesh,
    that of this machine's devices.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform


def refusal(qkv: jax.Array, regions: jax.Array | None, scale: float, drops: bool) -> str | None:
    """Why the kernels cannot attend in windows `[B, W, N, 3, heads, dim]`; None where they can."""
    if drops:
        return "it does not drop attention weights"
    if qkv.dtype not in (jnp.float32, jnp.bfloat16):
        return f"it takes float32 and bfloat16, not {qkv.dtype}"
    if target() == "tpu" and jax.sharding.get_abstract_mesh().empty and jax.device_count() > 1:
        return "there are several devices, and no mesh is set to spread it over"
    # No device has more windows or heads than all of them together.
    settings, flat = _settings(qkv, scale), jax.eval_shape(_flat, qkv)
    plans = [pallas_tpu.plan_for(flat, regions, settings, backward) for backward in (False, True)]
    if None in plans:
        return f"a window of {qkv.shape[2]} tokens does not fit the chip's vector memory"
    return None


def attend(qkv: jax.Array, bias: jax.Array, regions: jax.Array | None, scale: float) -> jax.Array:
    """Attention in windows `[B, W, N, 3, heads, dim]`, by the kernels, to `[B, W, N, heads, dim]`.

    A kernel is not the compiler's to divide, so each device calls it on what it holds: of the
    batch over the mesh axes data and fsdp, of windows over window, of heads over model, as far as
    they divide; along any other axis of the mesh devices do the same.
    """
    if target() != "tpu":
        _warn_of_interpreter()
    mesh = jax.sharding.get_abstract_mesh()
    free = {
        axis: mesh.shape[axis]
        for axis, kind in zip(mesh.axis_names, mesh.axis_types, strict=True)
        if kind != AxisType.Manual
    }
    if not free:
        return _on_one_device(qkv, bias, regions, scale)
    return _on_each_device(qkv, bias, regions, scale, mesh, free)


def _on_each_device(
    qkv: jax.Array,
    bias: jax.Array,
    regions: jax.Array | None,
    scale: float,
    mesh: AbstractMesh,
    free: dict[str, int],
) -> jax.Array:
    batch, windows, _, _, heads, _ = qkv.shape
    rows = _dividing(_BATCH, batch, free)
    window, head = _dividing(_WINDOWS, windows, free), _dividing(_HEADS, heads, free)
    return jax.shard_map(
        functools.partial(_on_one_device, scale=scale),
        mesh=mesh,
        in_specs=(
            PartitionSpec(rows, window, None, None, head),
            PartitionSpec(head),
            PartitionSpec(window),
        ),
        out_specs=PartitionSpec(rows, window, None, head),
        axis_names=set(free),
        check_vma=False,
    )(qkv, bias, regions)


def _dividing(axes: tuple[str, ...], length: int, sizes: dict[str, int]) -> tuple[str, ...] | None:
    """The mesh axes of `axes` that are there and divide `length`, one after the other."""
    kept: list[str] = []
    for axis in axes:
        size = sizes.get(axis, 1)
        if size > 1 and length % size == 0:
            kept.append(axis)
            length //= size
    return tuple(kept) or None


def _on_one_device(
    qkv: jax.Array, bias: jax.Array, regions: jax.Array | None, scale: float
) -> jax.Array:
    batch, windows, tokens, _, heads, dim = qkv.shape
    # Inside a `shard_map` all operands of a kernel must be known to differ between devices.
    varying = jax.typeof(qkv).manual_axis_type.varying
    bias, regions = jax.tree.map(lambda x: _as_varying(x, varying), (bias, regions))
    out = pallas_tpu.attend(_flat(qkv), bias, regions, _settings(qkv, scale))
    return out.reshape(batch, windows, tokens, heads, dim)


def _as_varying(x: jax.Array, axes: frozenset[str]) -> jax.Array:
    missing = tuple(axes - jax.typeof(x).manual_axis_type.varying)
    return jax.lax.pcast(x, missing, to="varying") if missing else x


def _flat(qkv: jax.Array) -> jax.Array:
    return qkv.reshape(qkv.shape[0] * qkv.shape[1], qkv.shape[2], -1)


def _settings(qkv: jax.Array, scale: float) -> pallas_tpu.Settings:
    if target() != "tpu":
        return pallas_tpu.Settings(qkv.shape[-2], scale, _SMALLEST, interpret=True)
    info = pltpu.get_tpu_info()
    chip = Chip(info.vmem_capacity_bytes, info.num_cores)
    return pallas_tpu.Settings(qkv.shape[-2], scale, chip, interpret=False)


@functools.cache
def _warn_of_interpreter() -> None:
    log.warning(
        "attention 'pallas_tpu' is interpreted on %s, which is slow: it is for TPUs, 'auto' takes "
        "what suits the platform",
        target(),
    )
