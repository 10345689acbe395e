"""Suggested changes to a config, from the results of its dry run."""

from collections.abc import Iterator

from vswin_jax.analysis.dry_run.programs import CompileResult, CompileTarget
from vswin_jax.analysis.dry_run.sizes import (
    block_inputs_bytes,
    bytes_per_device,
    can_shard_state,
    format_bytes,
    logits_bytes,
    microbatch_size,
    min_saving,
)
from vswin_jax.sharding.mesh import num_batch_shards


def advice(target: CompileTarget, training: CompileResult, evaluation: CompileResult) -> list[str]:
    """Return suggestions as sentences, each with the setting to change and its effect."""
    if training.fits is False:
        lines = _reduce_memory(target, training)
    else:
        lines = _use_free_memory(target, training)
    return [*lines, *_reduce_evaluation_memory(target, evaluation)]


def _reduce_memory(target: CompileTarget, training: CompileResult) -> Iterator[str]:
    state = bytes_per_device(target.state)
    least = min_saving(training)
    rest = training.needed - state
    rows, model = microbatch_size(target), target.model
    yield (
        f"The training step needs {format_bytes(training.needed)} per device, but a device has "
        f"{format_bytes(training.available)}: {format_bytes(state)} are the training state, "
        f"{format_bytes(rest)} the batch, activations and gradients of {rows} clips. Change in "
        f"this order:"
    )
    if model.remat == "none":
        yield _remat(target, rows)
    if state > least:
        yield from _reduce_state(target, state)
    yield from _reduce_microbatch(target, state, rest, training.available)
    if model.attention == "xla" and logits_bytes(target, rows) > least:
        yield _logits(target, rows)


def _remat(target: CompileTarget, rows: int) -> str:
    stored = format_bytes(block_inputs_bytes(target, rows))
    return (
        f"--config.model.remat=block stores only the input of each block, about {stored}, and "
        f"computes the rest again (a third more arithmetic)."
    )


def _logits(target: CompileTarget, rows: int) -> str:
    return (
        f"The attention logits of one block of the first stage are "
        f"{format_bytes(logits_bytes(target, rows))}: try an implementation that does not store "
        f"them (--config.model.attention)."
    )


def _reduce_state(target: CompileTarget, state: int) -> Iterator[str]:
    config = target.config
    if can_shard_state(target):
        shards = target.mesh.shape["data"]
        yield (
            f"--config.mesh.fsdp={shards} --config.mesh.data=1 shards parameters, moments and "
            f"average: about {format_bytes(state / shards)} of state per device."
        )
    if config.train.ema_decay > 0:
        average = format_bytes(bytes_per_device(target.state.ema_params))
        yield f"--config.train.ema_decay=0 saves the {average} of the averaged parameters."


def _reduce_microbatch(
    target: CompileTarget, state: int, rest: int, available: int
) -> Iterator[str]:
    steps = target.config.train.grad_accum_steps
    local = target.config.train.batch_size // num_batch_shards(target.mesh)
    room = available - state
    # The estimate takes all of `rest` as proportional to the clips of a micro-batch, as nearly all
    # of it is.
    candidates = (n for n in range(steps + 1, local + 1) if local % n == 0)
    enough = next((n for n in candidates if rest * steps / n <= room), None)
    if enough is not None:
        yield (
            f"--config.train.grad_accum_steps={enough} makes micro-batches of {local // enough} "
            f"clips per device: about {format_bytes(rest * steps / enough)} instead of "
            f"{format_bytes(rest)}, for the same step."
        )
    elif local > steps:
        yield (
            f"--config.train.grad_accum_steps={local} makes micro-batches of one clip per device: "
            f"about {format_bytes(rest * steps / local)} instead of {format_bytes(rest)}."
        )
    else:
        yield (
            "A device has a single clip at a time already: --config.mesh.window=2 splits each clip "
            "over two devices, --config.mesh.model=2 splits heads and hidden channels; or use "
            "smaller clips (--config.data.num_frames, --config.data.size)."
        )


def _use_free_memory(target: CompileTarget, training: CompileResult) -> Iterator[str]:
    if training.available is None:
        return
    steps = target.config.train.grad_accum_steps
    state = bytes_per_device(target.state)
    rest = training.needed - state
    fewer = (n for n in range(1, steps) if steps % n == 0)
    enough = (n for n in fewer if state + rest * steps / n <= training.available)
    best = next(enough, None)
    if best is not None:
        yield (
            f"There is room: --config.train.grad_accum_steps={best} should need about "
            f"{format_bytes(state + rest * steps / best)} per device, for fewer and larger passes."
        )


def _reduce_evaluation_memory(target: CompileTarget, evaluation: CompileResult) -> Iterator[str]:
    if evaluation.fits is not False:
        return
    views, shards = target.config.eval, num_batch_shards(target.mesh)
    rows = target.padded_eval_batch // shards
    needs = f"The evaluation step needs {format_bytes(evaluation.needed)} per device:"
    if views.views_per_pass > 1:
        yield (
            f"{needs} --config.eval.views_per_pass=1 evaluates one view of a video at a time "
            f"instead of {views.views_per_pass}."
        )
    elif rows > 1:
        yield (
            f"{needs} --config.eval.batch_size={shards} evaluates one video per device at a time "
            f"instead of {rows}."
        )
    else:
        yield f"{needs} use devices with more memory, or smaller clips."
