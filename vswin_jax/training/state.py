"""The training state: everything that a step reads and writes, created already sharded."""

import functools
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax.sharding import Mesh
from jaxtyping import PRNGKeyArray, PyTree

from vswin_jax.models import init_params
from vswin_jax.sharding.mesh import Rules, tree_shardings


class TrainState(flax.struct.PyTreeNode):
    """Parameters, optimizer state and step of a run.

    The random numbers of a step are a function of the seed and `step`, so no key is stored. The
    leaves are arrays, or in abstract states their shapes or shardings.

    Attributes:
      step: number of completed steps, skipped ones included.
      params: parameters of the model.
      ema_params: their exponential moving average, or None without one.
      opt_state: state of the optimizer.
    """

    step: Any
    params: PyTree
    ema_params: PyTree
    opt_state: PyTree


def create_state(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    key: PRNGKeyArray,
    mesh: Mesh,
    rules: Rules,
    params: PyTree = None,
    *,
    ema: bool = False,
) -> TrainState:
    """Create the state at step 0, sharded by `rules`; no device ever holds more than its shards.

    Parameters are initialised from `key` unless `params` (of a pretrained model) are passed. With
    `ema` the average starts as a copy of them.
    """
    shardings = jax.tree.map(
        lambda leaf: leaf.sharding, abstract_state(model, optimizer, mesh, rules, ema=ema)
    )
    if params is not None:
        params = jax.device_put(params, shardings.params)
    return initializer(model, optimizer, shardings, ema=ema)(key, params)


def initializer(
    model: nn.Module, optimizer: optax.GradientTransformation, shardings: TrainState, *, ema: bool
) -> Callable[[jax.Array, Any], TrainState]:
    """Build the compiled (key, params or None) -> state that `create_state` calls."""
    return jax.jit(functools.partial(_build, model, optimizer, ema), out_shardings=shardings)


def abstract_state(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    rules: Rules,
    *,
    ema: bool = False,
) -> TrainState:
    """Return the shapes, dtypes and shardings of `create_state`'s result; nothing is computed."""
    build = functools.partial(_build, model, optimizer, ema)
    shapes = jax.eval_shape(build, jax.random.key(0), None)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        tree_shardings(shapes, mesh, rules),
    )


def _build(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    ema: bool,
    key: jax.Array,
    params: Any,
) -> TrainState:
    params = init_params(model, key) if params is None else params
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema_params=jax.tree.map(jnp.copy, params) if ema else None,
        opt_state=optimizer.init(params),
    )


def inference_params(state: TrainState) -> PyTree:
    """Return the averaged parameters if the state has them, else the parameters."""
    return state.params if state.ema_params is None else state.ema_params
