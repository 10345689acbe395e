"""The training step and the evaluation step: pure functions of a state and a batch."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax.sharding import Mesh
from jaxtyping import Array, Float, Num, PyTree

from vswin_jax.errors import InputError
from vswin_jax.runtime.compilation import compiler_options
from vswin_jax.sharding.constraints import use_activation_mesh
from vswin_jax.sharding.mesh import num_batch_shards
from vswin_jax.training.batch_registry import BatchSteps
from vswin_jax.training.state import TrainState
from vswin_jax.training.step_inputs import Batch, StepInputs, prepare_inputs, preprocess, step_keys
from vswin_jax.training.task import SINGLE_LABEL, Task

# Keys of a batch that the training step reads.
BATCH_KEYS = ("video", "label", "mask", "flip")

Metrics = dict[str, Num[Array, ""]]
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
EvalStep = Callable[[PyTree, Batch], dict[str, Float[Array, "B ..."]]]


def make_train_step(
    model: nn.Module,
    optimizer: optax.GradientTransformationExtraArgs,
    *,
    seed: int,
    num_classes: int,
    label_smoothing: float = 0.0,
    mixup_alpha: float = 0.0,
    cutmix_alpha: float = 0.0,
    random_erasing_rate: float = 0.0,
    batch_augmentations: BatchSteps = (),
    ema_decay: float = 0.0,
    grad_accum_steps: int = 1,
    state_shardings: TrainState | None = None,
    mesh: Mesh | None = None,
    task: Task = SINGLE_LABEL,
    autotune: bool = False,
) -> TrainStep:
    """Build the compiled (state, batch) -> (state, metrics), which donates the state.

    `batch` has video uint8 [B, 1, T, H, W, 3], label int32 [B] (float32 [B, K] of multi-label
    data), mask float32 [B] and flip bool [B]. Clips are erased and mixed as a whole batch, then
    split into `grad_accum_steps` micro-batches whose gradients are summed. The metrics are scalars
    on the device: the task's sums over the batch, and learning_rate, grad_norm, skipped_total and
    skipped_in_a_row of the optimizer. `state_shardings` are those of the old state and fix those of
    the new one; `mesh` and `autotune` are as in `use_activation_mesh` and `compiler_options`.

    Raises:
      InputError: when first called with a batch that `grad_accum_steps` does not divide, with
        micro-batches that the devices of `mesh` do not divide, or with labels of another task.
    """
    prepare_batch = functools.partial(
        prepare_inputs,
        num_classes=num_classes,
        label_smoothing=label_smoothing,
        mixup_alpha=mixup_alpha,
        cutmix_alpha=cutmix_alpha,
        random_erasing_rate=random_erasing_rate,
        batch_augmentations=batch_augmentations,
        task=task,
    )

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        augment_key, dropout_key = step_keys(seed, state.step)
        _check_batch_size(len(batch["label"]), grad_accum_steps, mesh)
        with use_activation_mesh(mesh):
            inputs = prepare_batch(augment_key, batch)
            gradient = _gradient_function(model, task, jnp.sum(inputs.mask))
            if grad_accum_steps == 1:
                grads, sums = gradient(state.params, inputs, dropout_key)
            else:
                grads, sums = _accumulate(
                    gradient, state.params, inputs, dropout_key, grad_accum_steps
                )
        state = _apply_gradients(optimizer, state, grads, ema_decay)
        return state, sums | _optimizer_metrics(state.opt_state)

    shardings = None if state_shardings is None else (state_shardings, None)
    options = compiler_options(mesh, autotune)
    return jax.jit(train_step, donate_argnums=0, out_shardings=shardings, compiler_options=options)


def _gradient_function(
    model: nn.Module, task: Task, num_clips: jax.Array
) -> Callable[[Any, StepInputs, jax.Array], tuple[Any, Metrics]]:
    """Return (params, inputs, dropout key) -> (gradients, sums of the metrics).

    The loss is divided by `num_clips`, the number of real rows of the WHOLE batch, so that the
    gradients of its micro-batches add up to that of the mean loss.
    """
    count = jnp.maximum(num_clips, 1.0)

    def loss(params: Any, inputs: StepInputs, key: jax.Array) -> tuple[jax.Array, Metrics]:
        logits = model.apply({"params": params}, inputs.clips, train=True, rngs={"dropout": key})
        losses = task.losses(logits, inputs.targets)
        sums = task.sums(losses, logits, inputs.label, inputs.mask)
        return sums["loss_sum"] / count, sums

    return jax.grad(loss, has_aux=True)


def _accumulate(
    gradient: Callable[[Any, StepInputs, jax.Array], tuple[Any, Metrics]],
    params: Any,
    inputs: StepInputs,
    key: jax.Array,
    steps: int,
) -> tuple[Any, Metrics]:
    """Return the sum of `gradient` over `steps` micro-batches, each with its own dropout key."""

    def add(total: Any, scanned: tuple[StepInputs, jax.Array]) -> tuple[Any, None]:
        micro_batch, index = scanned
        part = gradient(params, micro_batch, jax.random.fold_in(key, index))
        return jax.tree.map(jnp.add, total, part), None

    micro_batches = _split(inputs, steps)
    first = jax.tree.map(lambda leaf: leaf[0], micro_batches)
    shapes = jax.eval_shape(gradient, params, first, key)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return jax.lax.scan(add, zeros, (micro_batches, jnp.arange(steps)))[0]


def _split(inputs: StepInputs, steps: int) -> StepInputs:
    """Reshape [B, ...] to [steps, B / steps, ...], strided: no row changes its device."""
    rows = inputs.label.shape[0]
    return jax.tree.map(
        lambda leaf: leaf.reshape(rows // steps, steps, *leaf.shape[1:]).swapaxes(0, 1), inputs
    )


def _check_batch_size(rows: int, steps: int, mesh: Mesh | None) -> None:
    if rows % steps:
        raise InputError(
            f"A batch of {rows} does not split into {steps} equal micro-batches: make the batch "
            f"size a multiple of train.grad_accum_steps.",
            ["the batch size", "train.grad_accum_steps"],
        )
    shards = 1 if mesh is None else num_batch_shards(mesh)
    if rows // steps % shards:
        fewer = [n for n in range(1, steps) if rows % (n * shards) == 0]
        lower = f"lower train.grad_accum_steps to {fewer[-1]}, or " if fewer else ""
        raise InputError(
            f"A micro-batch of {rows // steps} clips does not divide into {shards} equal shards, "
            f"the product of the mesh's batch axes: {lower}make the batch size a multiple of "
            f"train.grad_accum_steps times {shards}.",
            ["the batch size", "train.grad_accum_steps"],
        )


def _apply_gradients(
    optimizer: optax.GradientTransformationExtraArgs,
    state: TrainState,
    grads: Any,
    ema_decay: float,
) -> TrainState:
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params, step=state.step)
    params = optax.apply_updates(state.params, updates)
    ema_params = state.ema_params
    if ema_params is not None:
        averaged = optax.incremental_update(params, ema_params, 1.0 - ema_decay)
        # A skipped step must leave the average as it is, too.
        ema_params = optax.tree.where(opt_state.skipped_in_a_row == 0, averaged, ema_params)
    return TrainState(
        step=state.step + 1, params=params, ema_params=ema_params, opt_state=opt_state
    )


def _optimizer_metrics(opt_state: Any) -> Metrics:
    names = ("learning_rate", "grad_norm", "skipped_total", "skipped_in_a_row")
    return {name: getattr(opt_state, name) for name in names}


def make_eval_step(
    model: nn.Module,
    views_per_pass: int = 1,
    task: Task = SINGLE_LABEL,
    mesh: Mesh | None = None,
    autotune: bool = False,
) -> EvalStep:
    """Build the compiled (params, batch) -> {"probabilities": [B, K], "loss": [B]}, both float32.

    `batch` has video uint8 [B, V, T, H, W, 3], label int32 [B] (float32 [B, K] of multi-label data)
    and flip bool [B]. Probabilities are the mean over the views, and the loss is that of the mean;
    see `Task.average_views`. At most `views_per_pass` views of a video go through the model at
    once; any V works. Padded rows are computed like others: the caller masks them.

    Raises:
      InputError: when first called with a batch whose labels are not those of the task.
    """

    def eval_step(params: Any, batch: Batch) -> dict[str, jax.Array]:
        classify = functools.partial(_view_scores, model, task, params, batch["flip"])
        with use_activation_mesh(mesh):
            by_row = map_views(classify, batch["video"], views_per_pass)
        return task.average_views(by_row, batch["label"])

    return jax.jit(eval_step, compiler_options=compiler_options(mesh, autotune))


def map_views(
    function: Callable[[jax.Array], jax.Array], video: jax.Array, views_per_pass: int
) -> Float[Array, "B V ..."]:
    """Apply `function`, from [B, n, ...] to [B, n, ...], to at most `views_per_pass` views at once.

    `video` is [B, V, T, H, W, 3]; any V works.
    """
    grouped = jax.lax.map(function, _group_views(video, views_per_pass))
    groups, rows, size = grouped.shape[:3]
    by_row = grouped.swapaxes(0, 1).reshape(rows, groups * size, *grouped.shape[3:])
    return by_row[:, : video.shape[1]]


def _group_views(video: jax.Array, views_per_pass: int) -> jax.Array:
    """Reshape [B, V, ...] to [groups, B, group size, ...], repeating the last view to fill up.

    Groups have equal sizes, so that 12 views in passes of up to 5 are three groups of 4.
    """
    views = video.shape[1]
    groups = -(-views // views_per_pass)
    size = -(-views // groups)
    order = jnp.minimum(jnp.arange(groups * size), views - 1)
    filled = video if groups * size == views else video[:, order]
    return filled.reshape(video.shape[0], groups, size, *video.shape[2:]).swapaxes(0, 1)


def _view_scores(
    model: nn.Module, task: Task, params: Any, flip: jax.Array, video: jax.Array
) -> jax.Array:
    """Return the task's scores of each view of [B, n, T, H, W, 3], float32 [B, n, K]."""
    rows, size = video.shape[:2]
    clips = preprocess(video.reshape(rows * size, *video.shape[2:]), jnp.repeat(flip, size))
    logits = model.apply({"params": params}, clips, train=False).astype(jnp.float32)
    return task.view_scores(logits).reshape(rows, size, -1)
