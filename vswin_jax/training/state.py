"""The training state: everything that a step reads and writes, created already sharded."""

import functools
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax.sharding import Mesh
from jaxtyping import PRNGKeyArray, PyTree

from vswin_jax.models import init_params
from vswin_jax.sharding.mesh import Rules, default_rules, tree_shardings

# From a key to the initial parameters of a model; see `make_initializer`.
Initializer = Callable[[PRNGKeyArray], PyTree]


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


def make_initializer(model: nn.Module, mesh: Mesh) -> Initializer:
    """Build the compiled key -> parameters of `model`, to be sharded over `mesh`.

    JAX traces the model, which takes longer than the arithmetic, once for all uses of the result.
    """
    return jax.jit(functools.partial(init_params, model, together=mesh.size == 1))


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
    initialize = make_initializer(model, mesh)
    target = abstract_state(initialize, optimizer, mesh, rules, ema=ema)
    return begin_state(target, initialize, optimizer, key, params).result()


def begin_state(
    target: TrainState,
    initialize: Initializer,
    optimizer: optax.GradientTransformation,
    key: PRNGKeyArray,
    params: PyTree = None,
) -> "Future[TrainState]":
    """Begin to create the state at step 0 with the shardings of `target`, an abstract state.

    A thread compiles and runs the program, so that the caller can trace the next one meanwhile.
    """
    if params is not None:
        params = jax.device_put(params, _shardings(target).params)
    lowered = lower_creation(target, initialize, optimizer, key, params)
    pool = ThreadPoolExecutor(1, "create the state")
    created = pool.submit(lambda: lowered.compile()(key, params))
    pool.shutdown(wait=False)
    return created


def lower_creation(
    target: TrainState,
    initialize: Initializer,
    optimizer: optax.GradientTransformation,
    key: PRNGKeyArray,
    params: PyTree = None,
) -> jax.stages.Lowered:
    """Lower the program (key, params) -> state at step 0, with the shardings of `target`."""
    build = functools.partial(_build, initialize, optimizer, target.ema_params is not None)
    return jax.jit(build, out_shardings=_shardings(target)).lower(key, params)


def _shardings(target: TrainState) -> TrainState:
    return jax.tree.map(lambda leaf: leaf.sharding, target)


def abstract_state(
    model: nn.Module | Initializer,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    rules: Rules,
    *,
    ema: bool = False,
) -> TrainState:
    """Return the shapes, dtypes and shardings of `create_state`'s result; nothing is computed.

    In place of the model its initialiser may be given, which is then not traced again.
    """
    initialize = make_initializer(model, mesh) if isinstance(model, nn.Module) else model
    build = functools.partial(_build, initialize, optimizer, ema)
    return _with_shardings(jax.eval_shape(build, jax.random.key(0), None), mesh, rules)


def _build(
    initialize: Initializer,
    optimizer: optax.GradientTransformation,
    ema: bool,
    key: jax.Array,
    params: Any,
) -> TrainState:
    params = initialize(key) if params is None else params
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema_params=jax.tree.map(jnp.copy, params) if ema else None,
        opt_state=optimizer.init(params),
    )


def sharded_shapes(model: nn.Module, mesh: Mesh) -> PyTree:
    """Return the shapes, dtypes and default shardings of the parameters of `model`."""
    shapes = jax.eval_shape(make_initializer(model, mesh), jax.random.key(0))
    return _with_shardings(shapes, mesh, default_rules(mesh, shapes))


def _with_shardings(shapes: PyTree, mesh: Mesh, rules: Rules) -> Any:
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        tree_shardings(shapes, mesh, rules),
    )


def inference_params(state: TrainState) -> PyTree:
    """Return the averaged parameters if the state has them, else the parameters."""
    return state.params if state.ema_params is None else state.ema_params
