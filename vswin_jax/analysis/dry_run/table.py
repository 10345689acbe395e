"""The text table of a dry run."""

from collections.abc import Iterable, Sequence

import jax

from vswin_jax.analysis.compiled_program import COLLECTIVE_KINDS, CompiledProgram
from vswin_jax.analysis.dry_run.estimate import basis, estimate_rows
from vswin_jax.analysis.dry_run.programs import CompileResult, CompileTarget
from vswin_jax.analysis.dry_run.roofline import Roofline
from vswin_jax.analysis.dry_run.sizes import (
    bytes_per_device,
    format_bytes,
    format_seconds,
    format_si,
    layouts,
    microbatch_size,
    total_bytes,
)
from vswin_jax.runtime.hardware import ChipSpec

TableRow = Sequence[str]


def table(
    target: CompileTarget,
    results: Sequence[CompileResult],
    notes: Sequence[tuple[str, str]] = (),
) -> str:
    """Format config, costs and collectives of the compiled steps, and the run's time, as text.

    `notes` are further rows about the config, such as settings that the dry run has chosen.
    """
    blocks = [
        _align([*_config_rows(target), *notes]),
        _align(_sharding_rows(target)),
        _align(_step_rows(target, results)),
        _align(_collective_rows(results)),
        _estimate(target, results),
    ]
    return "\n\n".join(filter(None, blocks))


def _estimate(target: CompileTarget, results: Sequence[CompileResult]) -> str:
    rows = estimate_rows(target, results)
    return _align(rows) if len(rows) == 1 else f"{_align(rows)}\n  {basis(target)}"


def _align(rows: Sequence[TableRow]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)] if rows else []
    lines = ("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _config_rows(target: CompileTarget) -> list[TableRow]:
    config, model, mesh, chip = target.config, target.model, target.mesh, target.chip
    kind = mesh.devices.flat[0].device_kind if chip is None else chip.name
    axes = (f"{name} {size}" for name, size in mesh.shape.items())
    parameters = sum(leaf.size for leaf in jax.tree.leaves(target.state.params))
    return [
        ("config", config.name),
        ("devices", f"{mesh.size} x {kind}{'' if chip is None else _chip_peaks(chip)}"),
        ("mesh", " x ".join(axes)),
        ("model", f"{config.model.name}, {model.dtype.name}, {model.num_classes} classes"),
        ("", f"attention={model.attention}, remat={model.remat}"),
        ("batch", _batch_words(target)),
        ("data", _data_words(target)),
        ("parameters", f"{parameters:,}"),
        ("state per device", _state_words(target)),
        *(("assumed", sentence) for sentence in target.assumed),
    ]


def _batch_words(target: CompileTarget) -> str:
    data, train = target.config.data, target.config.train
    return (
        f"{train.batch_size} clips of {data.num_frames}x{data.size}x{data.size}, micro-batches of "
        f"{microbatch_size(target)} per device, {train.grad_accum_steps} per step"
    )


def _data_words(target: CompileTarget) -> str:
    dataset = target.dataset
    held_out = "" if dataset.held_out is None else f", {dataset.held_out:,} held out"
    return (
        f"{dataset.training:,} videos of {dataset.classes} classes{held_out} ({dataset.origin}), "
        f"{target.durations.total_steps:,} steps in {target.config.train.duration}"
    )


def _state_words(target: CompileTarget) -> str:
    state = target.state
    parts = {
        "parameters": state.params,
        "average": state.ema_params,
        "optimizer": state.opt_state,
    }
    return ", ".join(
        f"{name} {format_bytes(bytes_per_device(tree))} of {format_bytes(total_bytes(tree))}"
        for name, tree in parts.items()
        if tree is not None
    )


def _chip_peaks(chip: ChipSpec) -> str:
    return (
        f": {format_bytes(chip.memory_bytes)}, {format_si(chip.flops, 'FLOP/s')} (bfloat16), "
        f"{format_si(chip.memory_bandwidth, 'B/s')}, links {format_si(chip.link_bandwidth, 'B/s')}"
    )


def _sharding_rows(target: CompileTarget) -> list[TableRow]:
    rows: list[TableRow] = [
        ("sharding of parameters", "tensors", "total", "per device", "largest tensor")
    ]
    for layout in layouts(target.state.params):
        sizes = format_bytes(layout.total), format_bytes(layout.per_device)
        rows.append((str(layout), str(layout.tensors), *sizes, layout.example))
    return rows


def _step_rows(target: CompileTarget, results: Sequence[CompileResult]) -> list[TableRow]:
    rows: list[TableRow] = [
        ("per device and step", *(result.name for result in results)),
        ("compile time", *(f"{result.seconds:.0f} s" for result in results)),
        ("memory", *map(_memory_words, results)),
    ]
    programs = [result.program for result in results]
    for name, format_cell in (
        ("  arguments", lambda p: format_bytes(p.memory.arguments)),
        ("  outputs not aliased", lambda p: format_bytes(p.memory.outputs - p.memory.aliased)),
        ("  temporaries", lambda p: format_bytes(p.memory.temporaries)),
        ("  code", lambda p: format_bytes(p.memory.code)),
        ("arithmetic", lambda p: format_si(p.flops, "FLOP")),
        ("memory traffic", lambda p: format_si(p.memory_traffic, "B")),
        ("FLOP per byte", lambda p: f"{p.flops / max(p.memory_traffic, 1):.3g}"),
        ("interconnect", lambda p: f"{format_si(p.wire_bytes, 'B')} sent"),
        ("Pallas kernels", _kernels),
    ):
        rows.append((name, *("-" if p is None else format_cell(p) for p in programs)))
    return rows + _roofline_rows(target, programs)


def _memory_words(result: CompileResult) -> str:
    if result.available is None:
        return format_bytes(result.needed)
    words = "fits in" if result.fits else "DOES NOT FIT in"
    return f"{format_bytes(result.needed)}, {words} {format_bytes(result.available)}"


def _kernels(program: CompiledProgram) -> str:
    # The custom call target of Pallas kernels on TPU.
    return str(program.custom_calls.get("tpu_custom_call", 0))


def _roofline_rows(
    target: CompileTarget, programs: Iterable[CompiledProgram | None]
) -> list[TableRow]:
    chip = target.chip
    if chip is None:
        return []
    bounds = [program and Roofline.from_program(program, chip) for program in programs]
    rows = (
        ("compute time", lambda b: format_seconds(b.compute)),
        ("memory time", lambda b: format_seconds(b.memory)),
        ("interconnect time", lambda b: format_seconds(b.interconnect)),
        ("step time at least", lambda b: f"{format_seconds(b.seconds)} ({b.limit})"),
        ("FLOP/s at most", lambda b: f"{b.compute / b.seconds:.1%} of the peak"),
    )
    return [
        (name, *("-" if b is None else format_cell(b) for b in bounds))
        for name, format_cell in rows
    ]


def _collective_rows(results: Sequence[CompileResult]) -> list[TableRow]:
    counted = [result.program.by_kind() if result.program else {} for result in results]
    kinds = [kind for kind in COLLECTIVE_KINDS if any(kind in counts for counts in counted)]
    if not kinds:
        return [("collectives", "none")]
    rows: list[TableRow] = [("collectives", *(result.name for result in results))]
    for kind in kinds:
        cells = (
            f"{counts[kind][0]} x, {format_si(counts[kind][1], 'B')} sent"
            if kind in counts
            else "-"
            for counts in counted
        )
        rows.append((f"  {kind}", *cells))
    unknown = any(
        not c.trip_count_known for a in results if a.program for c in a.program.collectives
    )
    if unknown:
        rows.append(("  some in loops of unknown trip count, counted once", *[""] * len(results)))
    return rows
