"""Moments of the optimizer in the host's memory: a step fetches them, and puts the new ones back.

They are needed once a step, at its end, and are the largest part of the state beside the
activations: 8 bytes a parameter, 6 with a bfloat16 first moment. Source: "Memory spaces and host
offloading" of JAX's documentation.
"""

from collections.abc import Iterable
from typing import Any

import jax

from vswin_jax.errors import InputError

HOST = "pinned_host"


def check_supported(devices: Iterable[jax.Device]) -> None:
    """Raises InputError if the devices cannot reach their host's memory."""
    device = next(iter(devices))
    kinds = sorted({memory.kind for memory in device.addressable_memories()})
    if HOST not in kinds:
        raise InputError(
            f"Expected devices that reach '{HOST}' memory for config.optim.offload, but "
            f"{device.device_kind} has {', '.join(kinds)}: set it to False."
        )


def moments_to_host(state: Any) -> Any:
    """A `TrainState`, or its shapes with shardings, whose moments are in the host's memory.

    What is not of a parameter (a counter) stays on the device.
    """
    moments = jax.tree.map_with_path(_to_host, state.opt_state.inner)
    return state.replace(opt_state=state.opt_state._replace(inner=moments))


def _to_host(path: tuple[Any, ...], leaf: Any) -> Any:
    if not any(isinstance(part, jax.tree_util.DictKey) for part in path):
        return leaf
    sharding = leaf.sharding.with_memory_kind(HOST)
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
    return jax.device_put(leaf, sharding)


def to_device(moments: Any) -> Any:
    """In a compiled step: the moments in the device's memory, wherever they are."""
    return jax.device_put(moments, jax.memory.Space.Device)
