"""When the kernels for tokens are used, and how they are called."""

import functools
import logging

import jax
import jax.numpy as jnp

from vswin_jax.errors import unusable
from vswin_jax.kernels import layer_norm_dense, layer_norm_mlp
from vswin_jax.kernels.chip_memory import chip_for, warn_of_interpreter
from vswin_jax.kernels.layer_norm_dense import NormDense
from vswin_jax.kernels.layer_norm_mlp import Branches
from vswin_jax.kernels.token_calls import Settings
from vswin_jax.runtime.target_platform import target_platform
from vswin_jax.sharding import per_device

log = logging.getLogger(__name__)

# "xla" is the layers themselves, as the compiler fuses them; "chunked" calls the layers of a block,
# attention too, for a few windows at a time where nothing is trained: `models.window_groups`.
IMPLEMENTATIONS = ("auto", "xla", "chunked", "pallas_tpu")


def fuses(implementation: str, x: jax.Array, hidden: int, drops: bool) -> bool:
    """Whether tokens `[B, ..., C]` go through the kernels, or through the layers.

    `implementation` is a name of `IMPLEMENTATIONS`; `hidden` are the channels between the layers of
    the MLP; `drops` says whether activations or attention weights are dropped.

    Raises:
      InputError: the kernels are asked for by name, and cannot be used here.
    """
    if implementation in ("xla", "chunked") or (
        implementation == "auto" and target_platform() != "tpu"
    ):
        return False
    reason = _refusal(x, hidden, drops)
    if reason is None:
        return True
    if implementation == "pallas_tpu":
        raise unusable("tokenwise", implementation, reason)
    _log_refusal(reason)
    return False


def _refusal(x: jax.Array, hidden: int, drops: bool) -> str | None:
    if drops:
        return "it has no dropout"
    if x.dtype not in (jnp.float32, jnp.bfloat16):
        return f"it takes float32 and bfloat16, not {x.dtype}"
    reason = per_device.refusal_of_batch(len(x))
    if reason is not None:
        return reason
    # What fits all clips fits those of one device.
    shape, settings = jax.eval_shape(_by_clip, x).shape, _settings(epsilon=0.0)
    rooms = ((layer_norm_mlp, hidden), (layer_norm_dense, 3 * x.shape[-1]))
    for backward in (False, True):
        for room, width in rooms:
            if room.plan_for(shape, x.dtype, width, settings, backward) is None:
                return f"blocks of {x.shape[-1]} channels do not fit the chip's vector memory"
    return None


@functools.cache
def _log_refusal(reason: str) -> None:
    log.info("the kernels for tokens are not used: %s", reason)


def norm_dense(x: jax.Array, weights: NormDense, epsilon: float) -> tuple[jax.Array, jax.Array]:
    """LayerNorm and a product, of tokens `[B, ..., C]`, by a kernel; and the tokens as they were.

    The latter are for the residual branch, see `before.norm_dense`.
    """
    warn_of_interpreter("tokenwise", target_platform())

    def on_one_device(x: jax.Array, weights: NormDense) -> tuple[jax.Array, jax.Array]:
        return layer_norm_dense.norm_dense(x, weights, _settings(epsilon))

    out, same = per_device.on_each_batch(on_one_device, _by_clip(x), weights)
    return out.reshape(*x.shape[:-1], -1), same.reshape(x.shape)


def add_branches(
    x: jax.Array,
    attended: jax.Array,
    factors: jax.Array | None,
    weights: Branches,
    epsilon: float,
) -> jax.Array:
    """Tokens `[B, ..., C]` with both branches of a block, by a kernel, see `after.add_branches`.

    `factors` are those of stochastic depth, float32 `[2, B]`, or None.
    """
    warn_of_interpreter("tokenwise", target_platform())

    def on_one_device(
        batch: tuple[jax.Array, jax.Array, jax.Array | None], weights: Branches
    ) -> jax.Array:
        x, attended, factors = batch
        factors = None if factors is None else factors.T
        return layer_norm_mlp.add_branches(x, attended, factors, weights, _settings(epsilon))

    batch = (_by_clip(x), _by_clip(attended), None if factors is None else factors.T)
    return per_device.on_each_batch(on_one_device, batch, weights).reshape(x.shape)


def _by_clip(x: jax.Array) -> jax.Array:
    return x.reshape(len(x), -1, x.shape[-1])


def _settings(epsilon: float) -> Settings:
    return Settings(epsilon, chip_for(target_platform()), interpret=target_platform() != "tpu")
