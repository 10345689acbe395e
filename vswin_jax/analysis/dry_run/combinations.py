"""The first combination of settings with which a training step that is too large should fit.

Nothing is compiled again for it: of a large model, or of one that fits at last, a compilation takes
many minutes. The memory is estimated from the program that did not fit.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from vswin_jax.analysis.dry_run.divisible import divisors
from vswin_jax.analysis.dry_run.programs import CompileResult, CompileTarget
from vswin_jax.analysis.dry_run.sizes import (
    block_inputs_bytes,
    bytes_per_device,
    can_shard_state,
    format_bytes,
    microbatch_size,
    min_saving,
)
from vswin_jax.sharding.mesh import num_batch_shards

Settings = Mapping[str, Any]


def first_combination(target: CompileTarget, training: CompileResult) -> str | None:
    """Return a sentence about the first combination that should fit; None if the step fits."""
    if training.fits is not False:
        return None
    for settings in combinations(target, training):
        needed = estimated_bytes(target, training, settings)
        if needed <= training.available:
            return (
                f"The first combination of these that should fit, with about "
                f"{format_bytes(needed)} (not compiled: run this command again with it): "
                f"{as_flags(settings)}"
            )
    return (
        "No combination of these should be enough: take more or larger devices, smaller clips or "
        "a smaller model."
    )


def as_flags(settings: Settings) -> str:
    """Return settings as the command line has them."""
    return " ".join(f"--config.{name}={value}" for name, value in settings.items())


def combinations(target: CompileTarget, training: CompileResult) -> Iterator[Settings]:
    """Yield the changes that `advice` lists, in its order, each added to those before."""
    settings: dict[str, Any] = {}
    if target.model.remat == "none":
        settings["model.remat"] = "block"
        yield dict(settings)
    if can_shard_state(target) and bytes_per_device(target.state) > min_saving(training):
        settings |= {"mesh.fsdp": target.mesh.shape["data"], "mesh.data": 1}
        yield dict(settings)
    train = target.config.train
    for steps in divisors(train.batch_size // num_batch_shards(target.mesh)):
        if steps > train.grad_accum_steps:
            yield settings | {"train.grad_accum_steps": steps}


def estimated_bytes(target: CompileTarget, training: CompileResult, settings: Settings) -> float:
    """Estimate the bytes that the training step would need on a device with other settings.

    What is not the state is taken as proportional to the clips of a micro-batch, as nearly all of
    it is. Of rematerialised blocks the inputs are stored, and everything else of one at a time.
    """
    state = bytes_per_device(target.state)
    rest = training.needed - state
    if settings.get("model.remat") == "block":
        inputs = block_inputs_bytes(target, microbatch_size(target))
        rest = min(rest, inputs + rest / sum(target.model.depths))
    steps = target.config.train.grad_accum_steps
    rest *= steps / settings.get("train.grad_accum_steps", steps)
    return state / settings.get("mesh.fsdp", 1) + rest
