"""Cost accounting of a compiled program: collectives, memory, FLOPs and memory traffic per device.

The program is a `jax.stages.Compiled` for any platform, compiled ahead of time or not.
"""

import math
import operator
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from vswin_jax.analysis.hlo_cost import loop_factors, memory_traffic, program_cost
from vswin_jax.analysis.hlo_module import Execution, HloArray, HloModule
from vswin_jax.analysis.hlo_text import parse_module

COLLECTIVE_KINDS = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "collective-permute",
    "all-to-all",
)


@dataclass(frozen=True)
class Collective:
    """One collective operation of a program, from the view of one device.

    Attributes:
      kind: The operation, one of `COLLECTIVE_KINDS`.
      operands: The operand arrays, without padding.
      results: The result arrays, without padding.
      group_size: The number of devices that exchange data with each other.
      times: The number of executions in a call of the program, with loops multiplied.
      trip_count_known: False inside a loop of unknown trip count, which counts as one trip.
    """

    kind: str
    operands: tuple[HloArray, ...]
    results: tuple[HloArray, ...]
    group_size: int
    times: int = 1
    trip_count_known: bool = True

    @property
    def wire_bytes(self) -> float:
        """Bytes that a device sends in a call of the program, by a bandwidth-optimal ring.

        n devices, D bytes in the operand: all-reduce 2 (n-1)/n D; all-gather (n-1) D, which is
        (n-1)/n of its result; reduce-scatter and all-to-all (n-1)/n D; collective-permute D
        (Thakur et al., "Optimization of Collective Communication Operations in MPICH", 2005; the
        same table is in NVIDIA's nccl-tests, PERFORMANCE.md). A torus may use several rings at
        once, which changes the time and not the bytes.
        """
        others, data = self.group_size - 1, sum(array.bytes for array in self.operands)
        fraction = others / self.group_size
        factor = {"all-reduce": 2 * fraction, "all-gather": others, "collective-permute": 1.0}
        return self.times * data * factor.get(self.kind, fraction)


@dataclass(frozen=True)
class MemoryStats:
    """Bytes on one device during a call; `aliased` bytes are both argument and output (donated)."""

    arguments: int
    outputs: int
    aliased: int
    temporaries: int
    code: int

    @property
    def peak(self) -> int:
        """The bytes that must fit in the memory of a device."""
        return self.arguments + self.outputs - self.aliased + self.temporaries + self.code


@dataclass(frozen=True)
class CompiledProgram:
    """The costs of a call of a program on one device.

    Attributes:
      devices: The number of devices that run the program.
      collectives: The collectives that move data.
      memory: The memory of a device.
      flops: XLA's count times `loop_factors`, since XLA counts the body of a loop once on every
        platform; `hlo_cost.program_cost` where XLA has no count, as for GPU topologies. Both
        exclude the inside of a custom call, such as a Pallas kernel, unless it has a
        `pl.CostEstimate`.
      bytes_accessed: The bytes of operands and results, counted as `flops`.
      memory_traffic: Bytes between the chip and its memory, see `hlo_cost.memory_traffic`. On a
        TPU the count of XLA includes arrays that stay on the chip, and excludes the padding of
        tiles.
      custom_calls: The number of executions of each custom call target.
    """

    devices: int
    collectives: tuple[Collective, ...]
    memory: MemoryStats
    flops: float
    bytes_accessed: float
    memory_traffic: float
    custom_calls: dict[str, int]

    @property
    def wire_bytes(self) -> float:
        """Bytes that a device sends over the interconnect in a call."""
        return sum(collective.wire_bytes for collective in self.collectives)

    def by_kind(self) -> dict[str, tuple[int, float]]:
        """Return (executions, bytes that a device sends) of each kind of collective that occurs."""
        totals: dict[str, tuple[int, float]] = {}
        for kind in COLLECTIVE_KINDS:
            found = [collective for collective in self.collectives if collective.kind == kind]
            if found:
                count = sum(collective.times for collective in found)
                totals[kind] = count, sum(collective.wire_bytes for collective in found)
        return totals


def read_program(compiled: Any) -> CompiledProgram:
    """Analyse a `jax.stages.Compiled`."""
    module = parse_module(compiled.as_text())
    flops, bytes_accessed = _flops_and_bytes(compiled, module)
    return CompiledProgram(
        devices=module.partitions,
        collectives=tuple(find_collectives(module)),
        memory=_memory_stats(compiled),
        flops=flops,
        bytes_accessed=bytes_accessed,
        memory_traffic=memory_traffic(module),
        custom_calls=_custom_calls(module.executions),
    )


def _flops_and_bytes(compiled: Any, module: HloModule) -> tuple[float, float]:
    cost = compiled.cost_analysis()
    if not cost:
        return program_cost(module)
    counts = cost.get("flops", 0.0), cost.get("bytes accessed", 0.0)
    flops, bytes_accessed = map(operator.mul, counts, loop_factors(module))
    return flops, bytes_accessed


def _memory_stats(compiled: Any) -> MemoryStats:
    stats = compiled.memory_analysis()
    return MemoryStats(
        arguments=stats.argument_size_in_bytes,
        outputs=stats.output_size_in_bytes,
        aliased=stats.alias_size_in_bytes,
        temporaries=stats.temp_size_in_bytes,
        code=stats.generated_code_size_in_bytes,
    )


def _custom_calls(executions: Iterable[Execution]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for execution in executions:
        if execution.instruction.opcode == "custom-call":
            target = re.search(r'custom_call_target="([^"]*)"', execution.instruction.attributes)
            name = target[1] if target else ""
            counts[name] = counts.get(name, 0) + execution.times
    return counts


def find_collectives(module: HloModule) -> list[Collective]:
    """Return every collective that moves data, each pair of `-start` and `-done` once."""
    found = (_collective(module, execution) for execution in module.executions)
    return [collective for collective in found if collective and collective.group_size > 1]


def _collective(module: HloModule, execution: Execution) -> Collective | None:
    instruction, computation = execution.instruction, execution.computation
    kind = instruction.opcode.removesuffix("-start")
    if kind not in COLLECTIVE_KINDS or _is_continuation(execution):
        return None
    operands = computation.operands(instruction)
    results = instruction.results
    if instruction.opcode.endswith("-start") and kind != "all-reduce":
        # The results of a `-start` are (operands, results, context).
        results = results[len(operands) : 2 * len(operands)]
    root = computation.root
    if execution.fused and kind == "all-reduce" and root.opcode == "dynamic-slice":
        # The TPU compiler writes a reduce-scatter as a fusion of an all-reduce and a slice.
        kind, results = "reduce-scatter", root.results
    return Collective(
        kind=kind,
        operands=operands,
        results=results,
        group_size=_group_size(instruction.attributes, module.partitions),
        times=execution.times,
        trip_count_known=execution.trip_count_known,
    )


def _is_continuation(execution: Execution) -> bool:
    """Return True if this continues an asynchronous collective that was counted at its start.

    A TPU program repeats the collective in each fusion that overlaps with it, from the fusion with
    the custom call AsyncCollectiveStart to that with AsyncCollectiveDone.
    """
    if "async_collective_fusion_config" not in execution.instruction.attributes:
        return False
    instructions = execution.computation.instructions.values()
    return not any("AsyncCollectiveStart" in other.attributes for other in instructions)


def _group_size(attributes: str, devices: int) -> int:
    """Parse the number of devices of one replica group.

    XLA's forms are `{{0,1},{2,3}}`, or `{}` for all devices; `[4,2]<=[8]` for 4 groups of 2; and
    `mesh['x'=4,'y'=2] {'y'}`, which may have `device_ids=(...)` before the axes and a part of an
    axis as `'x':(1)2`.
    """
    if "source_target_pairs=" in attributes:
        pairs = re.findall(r"\{(\d+),(\d+)\}", attributes.partition("source_target_pairs=")[2])
        return max(len({device for pair in pairs if pair[0] != pair[1] for device in pair}), 1)
    listed = re.search(r"replica_groups=\{(?:\{([\d,]*)\})?", attributes)
    if listed:
        return len(listed[1].split(",")) if listed[1] else devices
    iota = re.search(r"replica_groups=\[\d+,(\d+)\]", attributes)
    if iota:
        return int(iota[1])
    mesh = re.search(r"replica_groups=@?mesh\w*\[([^\]]*)\][^{]*\{([^}]*)\}", attributes)
    if mesh:
        return _mesh_group_size(mesh[1], mesh[2])
    raise ValueError(
        f"Expected replica groups as a list, an iota or mesh axes, but got {attributes[:300]!r}."
    )


def _mesh_group_size(mesh: str, axes: str) -> int:
    """Return the devices along `axes`, for example of mesh "'x'=4,'y'=2" along "'y'"."""
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", mesh)}
    parts = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", axes)
    return math.prod(int(part) if part else sizes[name] for name, part in parts)
