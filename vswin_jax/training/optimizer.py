"""AdamW as PyTorch defines it, with the parameter groups of the published recipes.

`literal` is what the original code really applied, `intended` what its config meant to say
(reference facts, section 0 point 1). A step whose gradients are not finite changes nothing but
the counters of skipped steps.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import flax.traverse_util
import jax
import jax.numpy as jnp
import optax

from vswin_jax.errors import InputError, unknown_name
from vswin_jax.models import is_frozen
from vswin_jax.training.offload import to_device
from vswin_jax.training.schedules import Schedule

_BIAS_TABLE = "relative_position_bias_table"
_GROUPS = ("literal", "intended")
MOMENT_DTYPES = ("float32", "bfloat16")


class OptimConfig(Protocol):
    """What `make_optimizer` reads of its config; any object with these attributes will do."""

    learning_rate: float
    weight_decay: float
    b1: float
    b2: float
    eps: float
    groups: str
    backbone_multiplier: float
    clip_norm: float


class OptimizerState(NamedTuple):
    """The moments, and what the last update was: all of it on the device, all of it saved.

    `learning_rate` is the base (head) one; `grad_norm` is taken before clipping.
    """

    inner: Any
    learning_rate: jax.Array
    grad_norm: jax.Array
    skipped_total: jax.Array
    skipped_in_a_row: jax.Array


def param_multipliers(
    path: str, groups: str, backbone_multiplier: float = 0.1
) -> tuple[float, float]:
    """The (learning rate, weight decay) multipliers of the parameter at `path`.

    A path reads like "layers_0/blocks_1/attn/qkv/kernel"; everything outside `head` is backbone.
    """
    if groups not in _GROUPS:
        raise unknown_name("parameter grouping", groups, _GROUPS)
    parts = path.split("/")
    if parts[0] == "head":
        return 1.0, 1.0
    if parts[-1] == _BIAS_TABLE:
        return (1.0 if groups == "literal" else backbone_multiplier), 0.0
    is_norm = any(part.startswith("norm") for part in parts)
    return backbone_multiplier, 0.0 if is_norm and groups == "intended" else 1.0


def count_groups(
    params: Any, groups: str, backbone_multiplier: float = 0.1
) -> dict[tuple[float, float], tuple[int, int]]:
    """How many (tensors, values) each pair of multipliers has; `params` may be abstract."""
    counts: dict[tuple[float, float], tuple[int, int]] = {}
    for path, leaf in flax.traverse_util.flatten_dict(params, sep="/").items():
        key = param_multipliers(path, groups, backbone_multiplier)
        tensors, values = counts.get(key, (0, 0))
        counts[key] = (tensors + 1, values + math.prod(leaf.shape))
    return counts


def make_optimizer(
    optim_config: OptimConfig,
    schedule: Schedule,
    params: Any,
    frozen_stages: int = -1,
    *,
    moment_dtype: str = "float32",
    offloaded: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """AdamW over `params` (arrays or shapes); its `update` also takes the keyword `step`.

    The learning rate follows `step`, not the number of updates that were not skipped, so a
    skipped step does not shift the schedule. Frozen parameters get no update and no decay, and
    do not count in the gradient norm. `clip_norm` 0 means no clipping.

    The first moment is kept in `moment_dtype`, "float32" or "bfloat16", which saves two bytes a
    parameter. The second one stays float32: it moves by a thousandth a step, less than the last
    digit of a bfloat16. With `offloaded` the moments of the state may be in the host's memory.

    Raises:
      InputError: an unknown `groups` or `moment_dtype`, or a negative learning rate, decay or norm.
    """
    _check_config(optim_config)
    if moment_dtype not in MOMENT_DTYPES:
        raise unknown_name("moment dtype", moment_dtype, MOMENT_DTYPES)
    per_path = functools.partial(
        param_multipliers,
        groups=optim_config.groups,
        backbone_multiplier=optim_config.backbone_multiplier,
    )
    rates = _map_paths(lambda p: 0.0 if is_frozen(p, frozen_stages) else per_path(p)[0], params)
    decays = _map_paths(lambda p: optim_config.weight_decay * per_path(p)[1], params)
    moments = optax.chain(
        optax.clip_by_global_norm(optim_config.clip_norm)
        if optim_config.clip_norm
        else optax.identity(),
        optax.scale_by_adam(
            optim_config.b1, optim_config.b2, optim_config.eps, mu_dtype=jnp.dtype(moment_dtype)
        ),
    )

    def learning_rate(step: jax.typing.ArrayLike) -> jax.Array:
        return optim_config.learning_rate * schedule(step)

    return optax.GradientTransformationExtraArgs(
        functools.partial(_init, moments),
        functools.partial(_update, moments, learning_rate, rates, decays, offloaded),
    )


def _check_config(config: OptimConfig) -> None:
    for name in ("learning_rate", "weight_decay", "clip_norm", "backbone_multiplier"):
        if not getattr(config, name) >= 0:
            raise InputError(
                f"optim.{name} must be 0 or above, got {getattr(config, name)}: correct it."
            )


def _map_paths(function: Callable[[str], float], params: Any) -> Any:
    """A tree like `params` whose leaves are `function(path)`."""
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    return flax.traverse_util.unflatten_dict({p: function(p) for p in flat}, sep="/")


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
    before = to_device(state.inner) if offloaded else state.inner
    directions, inner = moments.update(grads, before, params)
    lr = learning_rate(step)

    def change(direction: jax.Array, param: jax.Array, rate: float, decay: float) -> jax.Array:
        # torch.optim.AdamW: the decay is decoupled, and scaled by the group's learning rate.
        return jnp.where(finite, -lr * rate * (direction + decay * param), 0.0)

    updates = jax.tree.map(change, directions, params, rates, decays)
    return updates, OptimizerState(
        inner=keep_if(finite, inner, before),
        learning_rate=lr,
        grad_norm=norm,
        skipped_total=state.skipped_total + ~finite,
        skipped_in_a_row=jnp.where(finite, 0, state.skipped_in_a_row + 1),
    )


def keep_if(condition: jax.Array, new: Any, old: Any) -> Any:
    """The tree `new` where the scalar `condition` holds, else the tree `old`."""
    return jax.tree.map(lambda n, o: jnp.where(condition, n, o), new, old)
