"""Optimizer moments in host memory: each step copies them to the device and back.

Moments are needed once a step, at its end, and take more memory than the parameters: 8 bytes a
parameter, 6 with a bfloat16 first moment. Source: "Memory spaces and host offloading" in JAX's
documentation.
"""

from collections.abc import Iterable
from typing import Any

import jax

from vswin_jax.errors import InputError

HOST = "pinned_host"


def check_supported(devices: Iterable[jax.Device]) -> None:
    """Raise InputError if the devices have no pinned host memory."""
    device = next(iter(devices))
    kinds = sorted({memory.kind for memory in device.addressable_memories()})
    if HOST not in kinds:
        raise InputError(
            f"Expected devices with '{HOST}' memory for config.optim.offload, but "
            f"{device.device_kind} has {', '.join(kinds)}: set config.optim.offload to False."
        )


def moments_to_host(state: Any) -> Any:
    """Move the moments of a `TrainState`, or of its shapes with shardings, to host memory.

    Leaves that are not of a parameter (counters) stay on the device.
    """
    moments = jax.tree.map_with_path(_to_host, state.opt_state.inner)
    return state.replace(opt_state=state.opt_state._replace(inner=moments))


def _to_host(path: tuple[Any, ...], leaf: Any) -> Any:
    # Only the moments are dictionaries of parameters; the counters of optax are plain fields.
    if not any(isinstance(part, jax.tree_util.DictKey) for part in path):
        return leaf
    sharding = leaf.sharding.with_memory_kind(HOST)
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
    return jax.device_put(leaf, sharding)


def to_device(moments: Any) -> Any:
    """Copy the moments to device memory, within a compiled step."""
    return jax.device_put(moments, jax.memory.Space.Device)
