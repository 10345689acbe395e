"""The table of a dry run."""

from collections.abc import Iterable, Sequence

import jax

from vswin_jax.analysis.compiled_program import KINDS, CompiledProgram
from vswin_jax.analysis.dry_run.programs import Attempt, Subject
from vswin_jax.analysis.dry_run.roofline import Roofline
from vswin_jax.analysis.dry_run.sizes import (
    amount,
    bytes_a_chip,
    bytes_in_all,
    duration,
    layouts,
    memory,
    micro_rows,
)

Row = Sequence[str]


def table(subject: Subject, attempts: Sequence[Attempt]) -> str:
    """Everything that is known of the compiled steps, as text of a few screens."""
    blocks = [
        _aligned(_facts(subject)),
        _aligned(_layout_rows(subject)),
        _aligned(_step_rows(subject, attempts)),
        _aligned(_collective_rows(attempts)),
    ]
    return "\n\n".join(filter(None, blocks))


def _aligned(rows: Sequence[Row]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)] if rows else []
    lines = ("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _facts(subject: Subject) -> list[Row]:
    config, model, mesh, chip = subject.config, subject.model, subject.mesh, subject.chip
    data, state = config.data, subject.state
    kind = mesh.devices.flat[0].device_kind if chip is None else chip.name
    axes = (f"{name} {size}" for name, size in mesh.shape.items())
    rows = [
        ("config", config.name),
        ("devices", f"{mesh.size} x {kind}{'' if chip is None else _figures(subject)}"),
        ("mesh", " x ".join(axes)),
        ("model", f"{config.model.name}, {model.dtype.name}, {model.num_classes} classes"),
        ("", f"attention={model.attention}, remat={model.remat}"),
        (
            "batch",
            f"{config.train.batch_size} clips of {data.num_frames}x{data.size}x{data.size}, "
            f"{micro_rows(subject)} a device at a time, {config.train.accumulate} times a step",
        ),
        ("parameters", f"{sum(leaf.size for leaf in jax.tree.leaves(state.params)):,}"),
    ]
    parts = {
        "parameters": state.params,
        "average": state.ema_params,
        "optimizer": state.opt_state,
    }
    sizes = (
        f"{name} {memory(bytes_a_chip(tree))} of {memory(bytes_in_all(tree))}"
        for name, tree in parts.items()
        if tree is not None
    )
    rows.append(("state a device", ", ".join(sizes)))
    return rows + [("assumed", sentence) for sentence in subject.assumed]


def _figures(subject: Subject) -> str:
    chip = subject.chip
    return (
        f": {memory(chip.memory_bytes)}, {amount(chip.flops, 'FLOP/s')} (bfloat16), "
        f"{amount(chip.memory_bandwidth, 'B/s')}, links {amount(chip.link_bandwidth, 'B/s')}"
    )


def _layout_rows(subject: Subject) -> list[Row]:
    rows: list[Row] = [("layout of the parameters", "tensors", "in all", "a device", "such as")]
    for layout in layouts(subject.state.params):
        sizes = memory(layout.in_all), memory(layout.a_chip)
        rows.append((str(layout), str(layout.tensors), *sizes, layout.example))
    return rows


def _step_rows(subject: Subject, attempts: Sequence[Attempt]) -> list[Row]:
    rows: list[Row] = [
        ("a device, a step", *(attempt.name for attempt in attempts)),
        ("compiling", *(f"{attempt.seconds:.0f} s" for attempt in attempts)),
        ("memory", *map(_memory_words, attempts)),
    ]
    programs = [attempt.program for attempt in attempts]
    for name, of_program in (
        ("  arguments", lambda p: memory(p.memory.arguments)),
        ("  outputs beside them", lambda p: memory(p.memory.outputs - p.memory.aliased)),
        ("  temporaries", lambda p: memory(p.memory.temporaries)),
        ("  code", lambda p: memory(p.memory.code)),
        ("arithmetic", lambda p: amount(p.flops, "FLOP")),
        ("memory traffic", lambda p: amount(p.memory_traffic, "B")),
        ("FLOP a byte", lambda p: f"{p.flops / max(p.memory_traffic, 1):.3g}"),
        ("interconnect", lambda p: f"{amount(p.wire_bytes, 'B')} sent"),
        ("Pallas kernels", _kernels),
    ):
        rows.append((name, *("-" if p is None else of_program(p) for p in programs)))
    return rows + _roofline_rows(subject, programs)


def _memory_words(attempt: Attempt) -> str:
    if attempt.available is None:
        return memory(attempt.needed)
    words = "fits in" if attempt.fits else "DOES NOT FIT in"
    return f"{memory(attempt.needed)}, {words} {memory(attempt.available)}"


def _kernels(program: CompiledProgram) -> str:
    # The target that Pallas gives its TPU kernels.
    return str(program.custom_calls.get("tpu_custom_call", 0))


def _roofline_rows(subject: Subject, programs: Iterable[CompiledProgram | None]) -> list[Row]:
    chip = subject.chip
    if chip is None:
        return []
    bounds = [program and Roofline.of(program, chip) for program in programs]
    rows = (
        ("time of the arithmetic", lambda b: duration(b.arithmetic)),
        ("time of the traffic", lambda b: duration(b.traffic)),
        ("time of the links", lambda b: duration(b.links)),
        ("the step takes at least", lambda b: f"{duration(b.seconds)} ({b.limit})"),
        ("arithmetic at most", lambda b: f"{b.arithmetic / b.seconds:.1%} of the peak"),
    )
    return [(name, *("-" if b is None else of_bound(b) for b in bounds)) for name, of_bound in rows]


def _collective_rows(attempts: Sequence[Attempt]) -> list[Row]:
    counted = [attempt.program.by_kind() if attempt.program else {} for attempt in attempts]
    kinds = [kind for kind in KINDS if any(kind in counts for counts in counted)]
    if not kinds:
        return [("collectives", "none")]
    rows: list[Row] = [("collectives", *(attempt.name for attempt in attempts))]
    for kind in kinds:
        cells = (
            f"{counts[kind][0]} x, {amount(counts[kind][1], 'B')} sent" if kind in counts else "-"
            for counts in counted
        )
        rows.append((f"  {kind}", *cells))
    unknown = any(not c.trips_known for a in attempts if a.program for c in a.program.collectives)
    if unknown:
        rows.append(("  some in loops of unknown length, counted once", *[""] * len(attempts)))
    return rows
