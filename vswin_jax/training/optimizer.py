"""AdamW as PyTorch defines it, with the parameter groups of the published recipes.

`literal` groups are those that the reference applied: of all `custom_keys` in its config that match
a parameter's name, mmcv's `DefaultOptimizerConstructor` uses the longest alone. `intended` groups
multiply the factors of all that match, as mmaction2 1.x does (`SwinOptimWrapperConstructor`). A
step whose gradients are not finite leaves parameters and moments as they are, and is counted.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.traverse_util
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from vswin_jax.errors import InputError, unknown_name
from vswin_jax.models import is_frozen
from vswin_jax.training.offload import to_device
from vswin_jax.training.schedules import Schedule

_BIAS_TABLE = "relative_position_bias_table"
_GROUPS = ("literal", "intended")
MOMENT_DTYPES = ("float32", "bfloat16")


class OptimizerState(NamedTuple):
    """Moments, metrics of the last update and counters; everything is saved in checkpoints.

    `learning_rate` is the base rate, which is that of the head; `grad_norm` is the norm before
    clipping.
    """

    inner: PyTree
    learning_rate: Float[Array, ""]
    grad_norm: Float[Array, ""]
    skipped_total: Int[Array, ""]
    skipped_in_a_row: Int[Array, ""]


def param_multipliers(
    path: str, groups: str, backbone_multiplier: float = 0.1
) -> tuple[float, float]:
    """Return the (learning rate, weight decay) multipliers of the parameter at `path`.

    A path has the form "layers_0/blocks_1/attn/qkv/kernel"; everything outside `head` is backbone.

    Raises:
      InputError: an unknown `groups`.
    """
    if groups not in _GROUPS:
        raise unknown_name("parameter grouping", groups, _GROUPS, "groups")
    parts = path.split("/")
    if parts[0] == "head":
        return 1.0, 1.0
    if parts[-1] == _BIAS_TABLE:
        return (1.0 if groups == "literal" else backbone_multiplier), 0.0
    is_norm = any(part.startswith("norm") for part in parts)
    return backbone_multiplier, 0.0 if is_norm and groups == "intended" else 1.0


def count_groups(
    params: PyTree, groups: str, backbone_multiplier: float = 0.1
) -> dict[tuple[float, float], tuple[int, int]]:
    """Count the (tensors, values) of each pair of multipliers; `params` may be abstract."""
    counts: dict[tuple[float, float], tuple[int, int]] = {}
    for path, leaf in flax.traverse_util.flatten_dict(params, sep="/").items():
        key = param_multipliers(path, groups, backbone_multiplier)
        tensors, values = counts.get(key, (0, 0))
        counts[key] = (tensors + 1, values + math.prod(leaf.shape))
    return counts


def make_optimizer(
    optim_config: Any,
    schedule: Schedule,
    params: PyTree,
    frozen_stages: int = -1,
    *,
    moment_dtype: str = "float32",
    offloaded: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Build AdamW for `params` (arrays or shapes); its `update` also takes the keyword `step`.

    `optim_config` has the attributes learning_rate, weight_decay, b1, b2, eps, groups,
    backbone_multiplier and clip_norm of `config.optim`; `clip_norm` 0 turns clipping off.

    The learning rate follows `step`, not the number of updates that were applied, so a skipped
    step does not shift the schedule. Frozen parameters get no update and no decay, and do not
    count in the gradient norm.

    The first moment is stored in `moment_dtype`, "float32" or "bfloat16", which saves two bytes a
    parameter. The second moment stays float32: it changes by a thousandth a step, less than the
    rounding of bfloat16. With `offloaded` the moments of the state may be in host memory.

    Raises:
      InputError: an unknown `groups` or `moment_dtype`, or a negative learning rate, decay or norm.
    """
    _check_config(optim_config)
    if moment_dtype not in MOMENT_DTYPES:
        raise unknown_name("moment dtype", moment_dtype, MOMENT_DTYPES, "moment_dtype")
    multipliers = functools.partial(
        param_multipliers,
        groups=optim_config.groups,
        backbone_multiplier=optim_config.backbone_multiplier,
    )
    rates = _map_paths(lambda p: 0.0 if is_frozen(p, frozen_stages) else multipliers(p)[0], params)
    decays = _map_paths(lambda p: optim_config.weight_decay * multipliers(p)[1], params)
    moments = _moments(optim_config, moment_dtype)

    def learning_rate(step: jax.typing.ArrayLike) -> jax.Array:
        return optim_config.learning_rate * schedule(step)

    return optax.GradientTransformationExtraArgs(
        functools.partial(_init, moments),
        functools.partial(_update, moments, learning_rate, rates, decays, offloaded),
    )


def _check_config(config: Any) -> None:
    for name in ("learning_rate", "weight_decay", "clip_norm", "backbone_multiplier"):
        if not getattr(config, name) >= 0:
            raise InputError(
                f"config.optim.{name} must be 0 or above, got {getattr(config, name)}: correct it."
            )


def _moments(config: Any, moment_dtype: str) -> optax.GradientTransformation:
    """Build gradient clipping and Adam's moments, without learning rate and weight decay."""
    clipping = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()
    adam = optax.scale_by_adam(
        b1=config.b1, b2=config.b2, eps=config.eps, mu_dtype=jnp.dtype(moment_dtype)
    )
    return optax.chain(clipping, adam)


def _map_paths(function: Callable[[str], float], params: Any) -> Any:
    """Return a tree like `params` whose leaves are `function(path)`."""
    return flax.traverse_util.path_aware_map(lambda path, _: function("/".join(path)), params)


def _init(moments: optax.GradientTransformation, params: Any) -> OptimizerState:
    zero = functools.partial(jnp.zeros, ())
    return OptimizerState(
        inner=moments.init(params),
        learning_rate=zero(jnp.float32),
        grad_norm=zero(jnp.float32),
        skipped_total=zero(jnp.int32),
        skipped_in_a_row=zero(jnp.int32),
    )


def _update(
    moments: optax.GradientTransformation,
    learning_rate: Schedule,
    rates: Any,
    decays: Any,
    offloaded: bool,
    grads: Any,
    state: OptimizerState,
    params: Any,
    *,
    step: jax.typing.ArrayLike,
) -> tuple[Any, OptimizerState]:
    grads = jax.tree.map(lambda g, rate: g if rate else jnp.zeros_like(g), grads, rates)
    norm = optax.tree.norm(grads)
    # The norm is needed anyway, and one selection fuses into the update; a branch over all
    # parameters (optax.apply_if_finite) would keep two copies of the moments alive.
    finite = jnp.isfinite(norm)
    old_moments = to_device(state.inner) if offloaded else state.inner
    directions, new_moments = moments.update(grads, old_moments, params)
    lr = learning_rate(step)

    def change(direction: jax.Array, param: jax.Array, rate: float, decay: float) -> jax.Array:
        # As in torch.optim.AdamW, the decay is decoupled and scaled by the group's learning rate.
        return jnp.where(finite, -lr * rate * (direction + decay * param), 0.0)

    updates = jax.tree.map(change, directions, params, rates, decays)
    return updates, OptimizerState(
        inner=optax.tree.where(finite, new_moments, old_moments),
        learning_rate=lr,
        grad_norm=norm,
        skipped_total=state.skipped_total + ~finite,
        skipped_in_a_row=jnp.where(finite, 0, state.skipped_in_a_row + 1),
    )
