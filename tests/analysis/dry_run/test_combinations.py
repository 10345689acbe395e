"""The combination of settings that is named for a training step that does not fit."""

from dataclasses import replace
from pathlib import Path

import jax
import pytest

from vswin_jax.analysis.dry_run import CompileResult, CompileTarget
from vswin_jax.analysis.dry_run.combinations import (
    as_flags,
    combinations,
    estimated_bytes,
    first_combination,
)
from vswin_jax.analysis.dry_run.sizes import block_inputs_bytes, bytes_per_device
from vswin_jax.config import flags

K400 = Path(__file__).parents[3] / "experiments" / "k400.py"
GB = 10**9


@pytest.fixture(scope="module")
def target() -> CompileTarget:
    """Return 64 clips in passes of 16, through a model of one block."""
    settings = ("model.depths=(1,)", "model.num_heads=(3,)", "train.grad_accum_steps=4")
    config = flags.override(
        flags.load(f"{K400}:variant=tiny"), [f"--config.{setting}" for setting in settings]
    )
    return CompileTarget.from_config(config, jax.devices()[:1])


def on_two_devices(target: CompileTarget) -> CompileTarget:
    sizes = {"data": 2, "fsdp": 1, "model": 1, "window": 1}
    return replace(target, mesh=jax.sharding.AbstractMesh(tuple(sizes.values()), tuple(sizes)))


def needs(needed: int, available: int | None) -> CompileResult:
    return CompileResult("training step", 1.0, None, needed, available)


def test_changes_in_the_order_of_the_suggestions(target: CompileTarget) -> None:
    remat = {"model.remat": "block"}
    assert list(combinations(target, needs(40 * GB, 10 * GB))) == [
        remat,
        *(remat | {"train.grad_accum_steps": steps} for steps in (8, 16, 32, 64)),
    ]
    # On two devices, where the state is a large part of the memory, it is sharded first.
    found = list(combinations(on_two_devices(target), needs(4 * 10**6, 10**6)))
    assert [as_flags(settings) for settings in found[:3]] == [
        "--config.model.remat=block",
        "--config.model.remat=block --config.mesh.fsdp=2 --config.mesh.data=1",
        "--config.model.remat=block --config.mesh.fsdp=2 --config.mesh.data=1 "
        "--config.train.grad_accum_steps=8",
    ]


def test_the_estimated_memory(target: CompileTarget) -> None:
    state, whole = bytes_per_device(target.state), needs(40 * GB, 10 * GB)
    rest = 40 * GB - state
    assert estimated_bytes(target, whole, {}) == 40 * GB
    halved = estimated_bytes(target, whole, {"train.grad_accum_steps": 8})
    assert halved == state + rest / 2
    # Two blocks: the inputs of both are stored, and half of the rest.
    two = replace(target, model=target.model.clone(depths=(2,)))
    inputs = block_inputs_bytes(two, 16)
    assert estimated_bytes(two, whole, {"model.remat": "block"}) == state + inputs + rest / 2
    sharded = {"mesh.fsdp": 2, "mesh.data": 1}
    assert estimated_bytes(target, whole, sharded) == state / 2 + rest


def test_the_first_that_should_fit_is_named(target: CompileTarget) -> None:
    sentence = first_combination(target, needs(40 * GB, 15 * GB))
    # One block, so that its remat saves nothing. A half of 40 GB is too much, and a quarter fits.
    assert sentence is not None
    assert sentence.endswith(": --config.model.remat=block --config.train.grad_accum_steps=16")
    assert "with about 9.3" in sentence
    assert "No combination" in str(first_combination(target, needs(40 * GB, 1000)))


def test_a_step_that_fits_or_may_fit_needs_none(target: CompileTarget) -> None:
    assert first_combination(target, needs(10, 20)) is None
    assert first_combination(target, needs(10, None)) is None
