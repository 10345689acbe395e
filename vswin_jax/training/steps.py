"""The training step and the evaluation step: pure functions of a state and a batch.

All randomness of a training step is a function of (seed, step), so a resumed run draws what an
unbroken one would have drawn.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax.sharding import Mesh

from vswin_jax.errors import InputError
from vswin_jax.runtime.compilation import compiler_options
from vswin_jax.sharding.constraints import activations_on
from vswin_jax.sharding.mesh import batch_parts
from vswin_jax.training.losses import mix, random_erasing
from vswin_jax.training.optimizer import keep_if
from vswin_jax.training.state import TrainState
from vswin_jax.training.task import SINGLE_LABEL, Task

PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)

# What the training step reads of a batch.
BATCH_KEYS = ("video", "label", "mask", "flip")

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
EvalStep = Callable[[Any, Batch], dict[str, jax.Array]]


class Inputs(NamedTuple):
    """What the model and the loss see of a (micro-)batch; all leading axes are [B]."""

    clips: jax.Array
    targets: jax.Array
    label: jax.Array
    mask: jax.Array


def preprocess(
    video: jax.Array, flip: jax.Array, dtype: jax.typing.DTypeLike = jnp.float32
) -> jax.Array:
    """Flip where asked and normalise: uint8 [B, T, H, W, 3], bool [B] -> `dtype` [B, T, H, W, 3].

    `(x - mean) * (1 / std)` on values 0 to 255 (reference facts, section 5.2).
    """
    video = jnp.where(flip[:, None, None, None, None], video[:, :, :, ::-1], video)
    scale = 1.0 / jnp.asarray(PIXEL_STD, jnp.float32)
    return ((video.astype(jnp.float32) - jnp.asarray(PIXEL_MEAN, jnp.float32)) * scale).astype(
        dtype
    )


def to_pixels(clips: jax.Array) -> jax.Array:
    """What `preprocess` gave, for display: float [..., 3] -> uint8 [..., 3], without its scale."""
    pixels = clips.astype(jnp.float32) * jnp.asarray(PIXEL_STD) + jnp.asarray(PIXEL_MEAN)
    return jnp.clip(jnp.round(pixels), 0, 255).astype(jnp.uint8)


def make_train_step(
    model: nn.Module,
    optimizer: optax.GradientTransformationExtraArgs,
    *,
    seed: int,
    num_classes: int,
    label_smoothing: float = 0.0,
    mixup_alpha: float = 0.0,
    cutmix_alpha: float = 0.0,
    erasing: float = 0.0,
    ema_decay: float = 0.0,
    accumulate: int = 1,
    state_shardings: TrainState | None = None,
    mesh: Mesh | None = None,
    task: Task = SINGLE_LABEL,
    autotune: bool = False,
) -> TrainStep:
    """The compiled (state, batch) -> (state, metrics); it consumes (donates) the state.

    `batch` has video uint8 [B, 1, T, H, W, 3], label int32 [B] (of sets of labels float32 [B, K]),
    mask float32 [B] and flip bool [B]. Clips are erased and mixed as a whole batch, then split
    into `accumulate` micro-batches whose gradients add up to those of the whole batch. The metrics
    are scalars on the device: the task's sums over the batch, and learning_rate, grad_norm,
    skipped_total and skipped_in_a_row of the optimizer. `state_shardings` pins the layout of the
    new state to that of the old one, and `mesh` that of the activations, see `layout`. `autotune`
    is that of `compilation.compiler_options`.

    Raises:
      InputError: when first called with a batch that does not divide by `accumulate`, whose
        micro-batches do not divide over the devices of `mesh`, or whose labels are not those of the
        task.
    """
    prepare_batch = functools.partial(
        prepare,
        num_classes=num_classes,
        label_smoothing=label_smoothing,
        mixup_alpha=mixup_alpha,
        cutmix_alpha=cutmix_alpha,
        erasing=erasing,
        task=task,
    )

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        augment_key, dropout_key = step_keys(seed, state.step)
        _check_rows(len(batch["label"]), accumulate, mesh)
        with activations_on(mesh):
            inputs = prepare_batch(augment_key, batch)
            grads, sums = _gradients(model, task, state.params, inputs, dropout_key, accumulate)
        state = _apply(optimizer, state, grads, ema_decay)
        return state, sums | _optimizer_metrics(state.opt_state)

    shardings = None if state_shardings is None else (state_shardings, None)
    options = compiler_options(mesh, autotune)
    return jax.jit(train_step, donate_argnums=0, out_shardings=shardings, compiler_options=options)


def step_keys(seed: int, step: jax.typing.ArrayLike) -> tuple[jax.Array, jax.Array]:
    """The keys of the augmentation and of the dropout of the step after `step` steps."""
    augment_key, dropout_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), step))
    return augment_key, dropout_key


def prepare(
    key: jax.Array,
    batch: Batch,
    *,
    num_classes: int,
    label_smoothing: float,
    mixup_alpha: float,
    cutmix_alpha: float,
    erasing: float,
    task: Task = SINGLE_LABEL,
) -> Inputs:
    """What the model and the loss get of a training batch: flipped, normalised, erased, mixed.

    `batch` is that of `make_train_step`, `key` the first of `step_keys`; all rows stay in place.
    """
    erase_key, mix_key = jax.random.split(key)
    clips = preprocess(batch["video"][:, 0], batch["flip"])
    targets = task.targets(batch["label"], num_classes, label_smoothing)
    if erasing:
        clips = random_erasing(erase_key, clips, erasing)
    alphas = {"mixup_alpha": mixup_alpha, "cutmix_alpha": cutmix_alpha}
    clips, targets = mix(mix_key, clips, targets, batch["mask"], **alphas)
    return Inputs(clips, targets, batch["label"], batch["mask"])


def _gradients(
    model: nn.Module, task: Task, params: Any, inputs: Inputs, key: jax.Array, accumulate: int
) -> tuple[Any, Metrics]:
    """Gradients of the mean loss over all real rows, and the sums of the metrics."""
    count = jnp.maximum(jnp.sum(inputs.mask), 1.0)

    def loss(params: Any, micro: Inputs, key: jax.Array) -> tuple[jax.Array, Metrics]:
        logits = model.apply({"params": params}, micro.clips, train=True, rngs={"dropout": key})
        losses = task.losses(logits, micro.targets)
        sums = task.sums(losses, logits, micro.label, micro.mask)
        return sums["loss_sum"] / count, sums

    gradient = jax.grad(loss, has_aux=True)
    if accumulate == 1:
        return gradient(params, inputs, key)

    def add(total: Any, piece: tuple[Inputs, jax.Array]) -> tuple[Any, None]:
        micro, index = piece
        part = gradient(params, micro, jax.random.fold_in(key, index))
        return jax.tree.map(jnp.add, total, part), None

    pieces = (_split(inputs, accumulate), jnp.arange(accumulate))
    first = jax.tree.map(lambda piece: piece[0], pieces)
    shapes = jax.eval_shape(gradient, params, first[0], key)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return jax.lax.scan(add, zeros, pieces)[0]


def _check_rows(rows: int, parts: int, mesh: Mesh | None) -> None:
    if rows % parts:
        raise InputError(
            f"A batch of {rows} does not split into {parts} equal micro-batches: make the batch "
            f"size a multiple of train.accumulate."
        )
    devices = 1 if mesh is None else batch_parts(mesh)
    if rows // parts % devices:
        fewer = [n for n in range(1, parts) if rows % (n * devices) == 0]
        lower = f"lower train.accumulate to {fewer[-1]}, or " if fewer else ""
        raise InputError(
            f"A micro-batch of {rows // parts} clips does not divide over {devices} devices: "
            f"{lower}make the batch size a multiple of train.accumulate times {devices}."
        )


def _split(inputs: Inputs, parts: int) -> Inputs:
    """[B, ...] -> [parts, B / parts, ...], strided: each device splits the rows that it holds."""
    rows = inputs.label.shape[0]
    return jax.tree.map(
        lambda leaf: leaf.reshape(rows // parts, parts, *leaf.shape[1:]).swapaxes(0, 1), inputs
    )


def _apply(
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
        ema_params = keep_if(opt_state.skipped_in_a_row == 0, averaged, ema_params)
    return TrainState(state.step + 1, params, ema_params, opt_state)


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
    """The compiled (params, batch) -> {"probabilities": float32 [B, K], "loss": float32 [B]}.

    `batch` has video uint8 [B, V, T, H, W, 3], label int32 [B] (of sets of labels float32 [B, K])
    and flip bool [B]. Probabilities are the mean over the views of each view's own, and the loss
    is that of the mean; see the task. At most `views_per_pass` views of a video go through the
    model at once; any V works. Padded rows are computed like others: the caller masks them.
    `autotune` is that of `compilation.compiler_options`.

    Raises:
      InputError: when first called with a batch whose labels are not those of the task.
    """

    def eval_step(params: Any, batch: Batch) -> dict[str, jax.Array]:
        views = batch["video"].shape[1]
        classify = functools.partial(_view_scores, model, task, params, batch["flip"])
        with activations_on(mesh):
            grouped = jax.lax.map(classify, _group_views(batch["video"], views_per_pass))
        groups, rows, size, classes = grouped.shape
        by_row = grouped.swapaxes(0, 1).reshape(rows, groups * size, classes)[:, :views]
        return task.average_views(by_row, batch["label"])

    return jax.jit(eval_step, compiler_options=compiler_options(mesh, autotune))


def _group_views(video: jax.Array, views_per_pass: int) -> jax.Array:
    """[B, V, ...] -> [groups, B, views of a group, ...]; the last view is repeated to fill up.

    The groups are evened out, so that 12 views in passes of up to 5 are three times 4.
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
    """[B, n, T, H, W, 3] -> the task's scores of each view, float32 [B, n, K]."""
    rows, size = video.shape[:2]
    clips = preprocess(video.reshape(rows * size, *video.shape[2:]), jnp.repeat(flip, size))
    logits = model.apply({"params": params}, clips, train=False).astype(jnp.float32)
    return task.view_scores(logits).reshape(rows, size, -1)
