"""What to change in a config, by the numbers of its dry run."""

from collections.abc import Iterator

from vswin_jax.analysis.dry_run.programs import Attempt, Subject
from vswin_jax.analysis.dry_run.sizes import (
    block_inputs_bytes,
    bytes_a_chip,
    logits_bytes,
    memory,
    micro_rows,
)
from vswin_jax.sharding.mesh import batch_parts

# Of the memory; what is less is not worth a suggestion.
_WORTH = 0.05


def advice(subject: Subject, training: Attempt, evaluation: Attempt) -> list[str]:
    """Sentences that say what to change, each with the setting and what it is worth."""
    lines = _to_fit(subject, training) if training.fits is False else _with_room(subject, training)
    return [*lines, *_evaluation(subject, evaluation)]


def _to_fit(subject: Subject, training: Attempt) -> Iterator[str]:
    state = bytes_a_chip(subject.state)
    least = training.available * _WORTH
    rest = training.needed - state
    yield (
        f"The training step needs {memory(training.needed)} a device and there are "
        f"{memory(training.available)}: {memory(state)} are its state, {memory(rest)} the batch, "
        f"activations and gradients of {micro_rows(subject)} clips. In this order:"
    )
    rows, model = micro_rows(subject), subject.model
    if model.remat == "none":
        kept = memory(block_inputs_bytes(subject, rows))
        yield (
            f"--config.model.remat=block keeps the input of each block alone, about {kept}, and "
            f"computes the rest again (a third more arithmetic)."
        )
    if state > least:
        yield from _smaller_state(subject, state)
    yield from _smaller_batch(subject, state, rest, training.available)
    logits = logits_bytes(subject, rows)
    if model.attention == "xla" and logits > least:
        yield (
            f"The attention logits of one block of the first stage are {memory(logits)}: an "
            f"implementation that does not store them is worth a try (--config.model.attention)."
        )


def _smaller_state(subject: Subject, state: int) -> Iterator[str]:
    mesh, config = subject.mesh.shape, subject.config
    if mesh["fsdp"] == 1 and mesh["data"] > 1:
        share = mesh["data"]
        yield (
            f"--config.mesh.fsdp={share} --config.mesh.data=1 spreads parameters, moments and "
            f"average: about {memory(state / share)} of state a device."
        )
    if config.train.ema_decay > 0:
        average = memory(bytes_a_chip(subject.state.ema_params))
        yield f"--config.train.ema_decay=0 does without the average's {average}."


def _smaller_batch(subject: Subject, state: int, rest: int, available: int) -> Iterator[str]:
    train = subject.config.train
    local = train.batch_size // batch_parts(subject.mesh)
    room = available - state
    # Nearly all of it grows with the clips of a micro-batch.
    more = (n for n in range(train.accumulate + 1, local + 1) if local % n == 0)
    enough = next((n for n in more if rest * train.accumulate / n <= room), None)
    if enough is not None:
        yield (
            f"--config.train.accumulate={enough} makes micro-batches of {local // enough} clips a "
            f"device: about {memory(rest * train.accumulate / enough)} instead of {memory(rest)}, "
            f"the same step."
        )
    elif local > train.accumulate:
        yield (
            f"--config.train.accumulate={local} makes micro-batches of one clip a device: about "
            f"{memory(rest * train.accumulate / local)} instead of {memory(rest)}."
        )
    else:
        yield (
            "A device has a single clip at a time already: --config.mesh.window=2 cuts clips into "
            "parts for two devices, --config.mesh.model=2 shares heads and hidden channels; or "
            "give the run smaller clips (--config.data.num_frames, --config.data.size)."
        )


def _with_room(subject: Subject, training: Attempt) -> Iterator[str]:
    if training.available is None:
        return
    accumulate = subject.config.train.accumulate
    state = bytes_a_chip(subject.state)
    rest = training.needed - state
    fewer = (n for n in range(1, accumulate) if accumulate % n == 0)
    enough = (n for n in fewer if state + rest * accumulate / n <= training.available)
    best = next(enough, None)
    if best is not None:
        yield (
            f"There is room: --config.train.accumulate={best} should need about "
            f"{memory(state + rest * accumulate / best)} a device, and has fewer and larger passes."
        )


def _evaluation(subject: Subject, evaluation: Attempt) -> Iterator[str]:
    if evaluation.fits is not False:
        return
    views, rows = subject.config.eval, subject.eval_rows // batch_parts(subject.mesh)
    needs = f"The evaluation step needs {memory(evaluation.needed)} a device:"
    if views.views_per_pass > 1:
        yield (
            f"{needs} --config.eval.views_per_pass=1 lets one view of a video through the model at "
            f"a time, not {views.views_per_pass}."
        )
    elif rows > 1:
        yield (
            f"{needs} --config.eval.batch_size={batch_parts(subject.mesh)} gives it one video at a "
            f"time, not {rows}."
        )
    else:
        yield f"{needs} give the run chips with more memory, or smaller clips."
