"""What a compiled program asks of one device: collectives, memory, arithmetic and traffic.

It reads `jax.stages.Compiled` of any platform, a program compiled ahead of time for TPUs too.
"""

import math
import operator
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from vswin_jax.analysis.hlo_cost import loop_factors, memory_traffic, totals
from vswin_jax.analysis.hlo_text import Array, Execution, Module, parse_module

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")


@dataclass(frozen=True)
class Collective:
    """One collective operation of a program, as one device sees it.

    operands and results: without padding; group_size: devices that exchange data with each other;
    times: how often it runs a call, loops multiplied; trips_known: False where a loop around it
    does not tell how often it runs, which counts as once.
    """

    kind: str
    operands: tuple[Array, ...]
    results: tuple[Array, ...]
    group_size: int
    times: int = 1
    trips_known: bool = True

    @property
    def wire_bytes(self) -> float:
        """Bytes that a device sends in one call, all `times` of it, by a bandwidth-optimal ring.

        n devices, D bytes in the operand: all-reduce 2 (n-1)/n D; all-gather (n-1) D, which is
        (n-1)/n of its result; reduce-scatter and all-to-all (n-1)/n D; collective-permute D
        (Thakur et al., "Optimization of Collective Communication Operations in MPICH", 2005; the
        same table is in NVIDIA's nccl-tests, PERFORMANCE.md). A torus may use several rings at
        once: that changes the time, not the bytes.
        """
        others, data = self.group_size - 1, sum(array.bytes for array in self.operands)
        share = others / self.group_size
        factor = {"all-reduce": 2 * share, "all-gather": others, "collective-permute": 1.0}
        return self.times * data * factor.get(self.kind, share)


@dataclass(frozen=True)
class Memory:
    """Bytes on one device during a call; `aliased` ones are both argument and output."""

    arguments: int
    outputs: int
    aliased: int
    temporaries: int
    code: int

    @property
    def peak(self) -> int:
        """Everything at once: what has to fit."""
        return self.arguments + self.outputs - self.aliased + self.temporaries + self.code


@dataclass(frozen=True)
class CompiledProgram:
    """What one device does in a call.

    flops, bytes_accessed: XLA's own count times `loop_factors`, since it takes the body of a loop
    once, however often it runs, on every platform; where XLA counts nothing, as for GPUs that are
    not there, our own (`hlo_cost.totals`). Both leave out what a custom call, such as a Pallas
    kernel, does inside, unless it says so itself (`pl.CostEstimate`); its operands and results
    count. memory_traffic: bytes between the chip and its memory, by our own count
    (`hlo_cost.memory_traffic`): on a TPU XLA's has also what never leaves the chip, and leaves out
    the padding of tiles. custom_calls: their targets, with how often each runs.
    """

    devices: int
    collectives: tuple[Collective, ...]
    memory: Memory
    flops: float
    bytes_accessed: float
    memory_traffic: float
    custom_calls: dict[str, int]

    @property
    def wire_bytes(self) -> float:
        """Bytes that a device sends over the interconnect."""
        return sum(collective.wire_bytes for collective in self.collectives)

    def by_kind(self) -> dict[str, tuple[int, float]]:
        """(number of collectives, bytes on the wire a device) of each kind that occurs."""
        totals: dict[str, tuple[int, float]] = {}
        for kind in KINDS:
            found = [collective for collective in self.collectives if collective.kind == kind]
            if found:
                count = sum(collective.times for collective in found)
                totals[kind] = count, sum(collective.wire_bytes for collective in found)
        return totals


def read_program(compiled: Any) -> CompiledProgram:
    """The facts of a `jax.stages.Compiled`."""
    module = parse_module(compiled.as_text())
    stats, cost = compiled.memory_analysis(), compiled.cost_analysis()
    if cost:
        counts = cost.get("flops", 0.0), cost.get("bytes accessed", 0.0)
        flops, accessed = map(operator.mul, counts, loop_factors(module))
    else:
        flops, accessed = totals(module)
    memory = Memory(
        stats.argument_size_in_bytes,
        stats.output_size_in_bytes,
        stats.alias_size_in_bytes,
        stats.temp_size_in_bytes,
        stats.generated_code_size_in_bytes,
    )
    return CompiledProgram(
        module.partitions,
        tuple(find_collectives(module)),
        memory,
        flops,
        accessed,
        memory_traffic(module),
        _custom_calls(module.executions),
    )


def _custom_calls(executions: Iterable[Execution]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for execution in executions:
        if execution.instruction.opcode == "custom-call":
            target = re.search(r'custom_call_target="([^"]*)"', execution.instruction.attributes)
            name = target[1] if target else ""
            counts[name] = counts.get(name, 0) + execution.times
    return counts


def find_collectives(module: Module) -> list[Collective]:
    """Every collective that moves data, each pair of `-start` and `-done` counted once."""
    found = (_collective(module, execution) for execution in module.executions)
    return [collective for collective in found if collective and collective.group_size > 1]


def _collective(module: Module, execution: Execution) -> Collective | None:
    instruction, computation = execution.instruction, execution.computation
    kind = instruction.opcode.removesuffix("-start")
    if kind not in KINDS or _goes_on(execution):
        return None
    operands = computation.operands(instruction)
    results = instruction.results
    if instruction.opcode.endswith("-start") and kind != "all-reduce":
        # (operands, results, and counters of the network)
        results = results[len(operands) : 2 * len(operands)]
    root = computation.root
    if execution.fused and kind == "all-reduce" and root.opcode == "dynamic-slice":
        # A TPU program has no other reduce-scatter than this fusion.
        kind, results = "reduce-scatter", root.results
    size = _group_size(instruction.attributes, module.partitions)
    return Collective(kind, operands, results, size, execution.times, execution.trips_known)


def _goes_on(execution: Execution) -> bool:
    """Whether this is a later piece of a collective that a TPU runs beside other work.

    Such a one is written again in each fusion that carries it on, from the one with the custom
    call AsyncCollectiveStart to the one with AsyncCollectiveDone.
    """
    if "async_collective_fusion_config" not in execution.instruction.attributes:
        return False
    inside = execution.computation.instructions.values()
    return not any("AsyncCollectiveStart" in instruction.attributes for instruction in inside)


def _group_size(attributes: str, devices: int) -> int:
    """Devices of one group, from any of the ways in which XLA writes groups.

    `{{0,1},{2,3}}`, `{}` for all; `[4,2]<=[8]` for 4 groups of 2; `mesh['x'=4,'y'=2] {'y'}`, also
    with `device_ids=(...)` before the axes, and with a part of an axis as `'x':(1)2`.
    """
    if "source_target_pairs=" in attributes:
        pairs = re.findall(r"\{(\d+),(\d+)\}", attributes.partition("source_target_pairs=")[2])
        return max(len({device for pair in pairs if pair[0] != pair[1] for device in pair}), 1)
    listed = re.search(r"replica_groups=\{(?:\{([\d,]*)\})?", attributes)
    if listed:
        return len(listed[1].split(",")) if listed[1] else devices
    counted = re.search(r"replica_groups=\[\d+,(\d+)\]", attributes)
    if counted:
        return int(counted[1])
    named = re.search(r"replica_groups=@?mesh\w*\[([^\]]*)\][^{]*\{([^}]*)\}", attributes)
    if named:
        return _axes_size(dict(_axes(named[1], r"'([^']+)'=(\d+)")), named[2])
    raise ValueError(f"Replica groups of an unknown form: {attributes[:300]!r}.")


def _axes(text: str, pattern: str) -> Sequence[tuple[str, int]]:
    return [(name, int(size)) for name, size in re.findall(pattern, text)]


def _axes_size(sizes: dict[str, int], used: str) -> int:
    axes = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", used)
    return math.prod(int(part) if part else sizes[name] for name, part in axes)
