"""Arithmetic and memory traffic of a compiled program, with loops counted as often as they run.

XLA's own count (`cost_analysis`, HloCostAnalysis in xla/service) takes the body of a loop once,
however often it runs. This one is coarser, matrix products and convolutions alone, and operands and
results as they are written, but knows the trips: `loop_factors` says by how much they matter.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from vswin_jax.analysis.hlo_text import Array, Computation, Execution, Instruction, Module

# What moves no data by itself; the time of a `-start` is counted, that of its `-done` is not.
_FREE = (
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional"),
    *("call", "after-all", "partition-id", "replica-id", "opt-barrier"),
)
_SLICES = ("dynamic-slice", "slice", "gather")
# Their results are (operand, what is moved, context).
_MOVES = ("copy-start", "slice-start", "dynamic-slice-start")
# In a call of cuBLAS; its second result is room to work in.
CUBLAS = '"__cublas$'
# Calls of a TPU program that say something of an array, and move nothing.
_NAMES_ONLY = ("AllocateBuffer", "AssumeGatherIndicesInBound", "ConcatBitcast")


def loop_factors(module: Module) -> tuple[float, float]:
    """How many times more FLOPs and bytes there are with the loops than with their bodies once."""
    costs, times = _costs(module)
    return tuple(
        float(more / less) if less else 1.0
        for more, less in zip(times @ costs, costs.sum(0), strict=True)
    )


def totals(module: Module) -> tuple[float, float]:
    """FLOPs and bytes of a call of the program, as they are written."""
    costs, times = _costs(module)
    return tuple(map(float, times @ costs))


def _costs(module: Module) -> tuple[np.ndarray, np.ndarray]:
    """FLOPs and bytes of every instruction, `[N, 2]`, and how often each runs, `[N]`."""
    costs = [(flops(execution), traffic(module, execution)) for execution in module.executions]
    return np.array(costs), np.array([execution.times for execution in module.executions])


def flops(execution: Execution) -> float:
    """2 for each multiply and add of a matrix product or convolution that runs once.

    Of a kernel, what it says of itself (`pl.CostEstimate`); of cuDNN's attention and of cuBLAS
    their products.
    """
    instruction = execution.instruction
    if instruction.opcode == "custom-call":
        if '"__cudnn$fmha' in instruction.attributes:
            return _attention_flops(execution)
        if CUBLAS in instruction.attributes:
            return _product_flops(execution, r'"lhs_contracting_dimensions":\[([\d,"]*)\]')
        said = re.search(r'"cost_estimate":\s*\{[^}]*"flops":\s*"?(\d+)', instruction.attributes)
        return float(said[1]) if said else 0.0
    if instruction.opcode not in ("dot", "convolution"):
        return 0.0
    if instruction.opcode == "dot":
        return _product_flops(execution, r"lhs_contracting_dims=\{([\d,]*)\}")
    operands = execution.computation.operands(instruction)
    return _convolution_flops(instruction, *operands) if len(operands) == 2 else 0.0


def _product_flops(execution: Execution, contracted: str) -> float:
    """`contracted` finds the first operand's axes that are summed over."""
    instruction = execution.instruction
    first = execution.computation.operands(instruction)[0]
    axes = _numbers(instruction.attributes, contracted)
    return 2.0 * instruction.results[0].size * math.prod(first.shape[axis] for axis in axes)


def _attention_flops(execution: Execution) -> float:
    """Two products of queries and keys `[G, N, heads, dim]`, and five in the backward pass."""
    query, key = execution.computation.operands(execution.instruction)[:2]
    products = 5 if "Backward" in execution.instruction.attributes else 2
    return 2.0 * products * query.size * key.shape[1]


def _convolution_flops(instruction: Instruction, data: Array, kernel: Array) -> float:
    """As HloCostAnalysis: only places of the window that lie on data count.

    TPU programs write batches of matrix products as convolutions full of padding and holes.
    """
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.attributes)
    result = instruction.results[0]
    if labels is None:
        return 0.0
    of_data, of_kernel, of_result = labels.groups()
    spatial = sorted(set(of_result) - set("bf"))
    places = math.prod(
        _window_places(
            instruction.attributes,
            axis,
            data.shape[of_data.index(digit)],
            kernel.shape[of_kernel.index(digit)],
            result.shape[of_result.index(digit)],
        )
        for axis, digit in enumerate(spatial)
    )
    outer = result.shape[of_result.index("b")] * result.shape[of_result.index("f")]
    groups = _numbers(instruction.attributes, r"batch_group_count=(\d+)") or [1]
    return 2.0 * outer * kernel.shape[of_kernel.index("i")] * places / groups[0]


def _window_places(attributes: str, axis: int, data: int, kernel: int, result: int) -> int:
    """Pairs of (place of the result, place of the kernel) that meet data, along one axis."""
    window = re.search(r"window=\{([^}]*)\}", attributes)
    stride, low, holes, spread = 1, 0, 1, 1
    if window:
        fields = dict(re.findall(r"(\w+)=(\S+)", window[1]))

        def of_axis(name: str, default: str) -> str:
            return fields[name].split("x")[axis] if name in fields else default

        stride, holes = int(of_axis("stride", "1")), int(of_axis("lhs_dilate", "1"))
        spread, low = int(of_axis("rhs_dilate", "1")), int(of_axis("pad", "0_0").split("_")[0])
    place = np.arange(result)[:, None] * stride + np.arange(kernel)[None] * spread - low
    return int(((place >= 0) & (place % holes == 0) & (place // holes < data)).sum())


def memory_traffic(module: Module) -> float:
    """Bytes that a call of the program moves between the chip and its memory.

    Unlike `traffic` it counts the padding of a TPU's tiles, and not what the program keeps in the
    vector memory of the chip.
    """
    return float(sum(e.times * traffic(module, e, in_memory) for e in module.executions))


def in_memory(array: Array) -> int:
    """The measure of `memory_traffic`."""
    return array.bytes_in_memory


def _as_written(array: Array) -> int:
    return array.bytes


Measure = Callable[[Array], int]


def traffic(module: Module, execution: Execution, measure: Measure = _as_written) -> float:
    """Bytes that an instruction reads and writes when it runs once, as it is written.

    Of an array that is sliced only the slice counts, and of one that is updated in place only the
    update, as in HloCostAnalysis. `measure` gives the bytes of an array.
    """
    instruction, computation = execution.instruction, execution.computation
    if execution.fused or instruction.opcode in _FREE or instruction.opcode.endswith("-done"):
        return 0.0
    if any(f'custom_call_target="{name}"' in instruction.attributes for name in _NAMES_ONLY):
        return 0.0
    # An array that a kernel gets more than once is read in parts: of qkv the queries, and so on.
    operands = [computation.types_of(name) for name in dict.fromkeys(instruction.operands)]
    if instruction.opcode in _MOVES:
        moved = instruction.results[1]
        return float(measure(moved) + _part(measure, [moved], operands[0]))
    if instruction.opcode == "fusion":
        inside = module.computations.get(instruction.called("calls") or "")
        if inside is not None:
            return _fusion_traffic(inside, measure)
    written = _written(computation, instruction, measure)
    return float(written + _read(instruction, operands, measure))


def _read(instruction: Instruction, operands: Sequence[Sequence[Array]], measure: Measure) -> int:
    if instruction.opcode in _SLICES:
        return _part(measure, instruction.results, operands[0])
    if instruction.opcode == "dynamic-update-slice":
        operands = operands[1:]
    return sum(measure(array) for arrays in operands for array in arrays)


def _written(computation: Computation, instruction: Instruction, measure: Measure) -> int:
    if instruction.opcode == "dynamic-update-slice":
        update = computation.types_of(instruction.operands[1])
        return _part(measure, update, instruction.results)
    if CUBLAS in instruction.attributes:
        return measure(instruction.results[0])
    return sum(map(measure, instruction.results))


def _part(measure: Measure, parts: Sequence[Array], whole: Sequence[Array]) -> int:
    """What parts of an array take where the whole of it lies."""
    # What has another rank, as a gather may give, does not have the tiles of the whole.
    rank, layout = (len(whole[0].shape), whole[0].layout) if whole else (0, "")
    on_chip = bool(whole) and whole[0].is_on_chip
    return sum(
        measure(replace(part, layout=layout if on_chip or len(part.shape) == rank else ""))
        for part in parts
    )


def _fusion_traffic(inside: Computation, measure: Measure) -> float:
    users: dict[str, list[Instruction]] = {}
    for instruction in inside.instructions.values():
        for name in instruction.operands:
            users.setdefault(name, []).append(instruction)
    parameters = (i for i in inside.instructions.values() if i.opcode == "parameter")
    read = sum(_parameter_bytes(users, i, i.results, measure) for i in parameters)
    root = inside.root
    parts = (
        [inside.instructions[name] for name in root.operands] if root.opcode == "tuple" else [root]
    )
    return float(read + sum(_result_bytes(inside, part, measure) for part in parts))


def _parameter_bytes(
    users: dict[str, list[Instruction]],
    value: Instruction,
    whole: Sequence[Array],
    measure: Measure,
) -> int:
    """What is read of `whole`, a parameter that `value` is or is a view of."""
    total = 0
    for user in users.get(value.name, ()):
        if user.opcode == "bitcast":
            total += _parameter_bytes(users, user, whole, measure)
        elif user.opcode in _SLICES and user.operands[0] == value.name:
            total += _part(measure, user.results, whole)
        elif user.opcode == "dynamic-update-slice" and user.operands[0] == value.name:
            continue
        else:
            return sum(map(measure, whole))
    return min(total, sum(map(measure, whole)))


def _result_bytes(inside: Computation, part: Instruction, measure: Measure) -> int:
    while part.opcode == "bitcast":
        part = inside.instructions[part.operands[0]]
    # A parameter that is only handed on was never copied.
    return 0 if part.opcode == "parameter" else _written(inside, part, measure)


def _numbers(attributes: str, pattern: str) -> list[int]:
    found = re.search(pattern, attributes)
    return [int(n) for n in found[1].replace('"', "").split(",") if n] if found else []
