"""Counts FLOPs and bytes accessed of a compiled program, with the trip counts of loops.

XLA's own count (`cost_analysis`, HloCostAnalysis in xla/service) takes the body of a loop once,
whatever its trip count. The count of this module is coarser (FLOPs are those of matrix products and
convolutions, bytes are those of operands and results) but multiplies by trip counts. `loop_factors`
returns the ratios by which to correct the counts of XLA.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from vswin_jax.analysis.hlo_flops import CUBLAS, execution_flops
from vswin_jax.analysis.hlo_module import (
    Execution,
    HloArray,
    HloComputation,
    HloInstruction,
    HloModule,
)

# Operations that move no data themselves. Of an asynchronous pair the `-start` is counted, and the
# `-done` is not.
_FREE = (
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "while",
    "conditional",
    "call",
    "after-all",
    "partition-id",
    "replica-id",
    "opt-barrier",
)
_SLICES = ("dynamic-slice", "slice", "gather")
# Asynchronous copies; their results are (operand, destination, context).
_ASYNC_COPIES = ("copy-start", "slice-start", "dynamic-slice-start")
# Custom calls of TPU programs that annotate or allocate an array, and move nothing.
_ANNOTATIONS = ("AllocateBuffer", "AssumeGatherIndicesInBound", "ConcatBitcast")

# From an array to its bytes, like the ShapeSizeFunction of HloCostAnalysis.
ShapeSize = Callable[[HloArray], int]


def loop_factors(module: HloModule) -> tuple[float, float]:
    """Return the ratios of FLOPs and of bytes with loops multiplied to those with bodies once."""
    costs, times = _costs(module)
    return tuple(
        float(total / once) if once else 1.0
        for total, once in zip(times @ costs, costs.sum(0), strict=True)
    )


def program_cost(module: HloModule) -> tuple[float, float]:
    """Count the FLOPs and the bytes accessed of a call of the program, without padding."""
    costs, times = _costs(module)
    return tuple(map(float, times @ costs))


def _costs(module: HloModule) -> tuple[np.ndarray, np.ndarray]:
    """Return FLOPs and bytes of every instruction, `[N, 2]`, and the executions of each, `[N]`."""
    costs = [
        (execution_flops(execution), execution_bytes(module, execution))
        for execution in module.executions
    ]
    return np.array(costs), np.array([execution.times for execution in module.executions])


def memory_traffic(module: HloModule) -> float:
    """Count the bytes that a call of the program moves between the chip and its memory (HBM).

    This includes the padding of a TPU's tiles, and excludes arrays in a TPU's vector memory.
    """
    return float(sum(e.times * execution_bytes(module, e, hbm_bytes) for e in module.executions))


def hbm_bytes(array: HloArray) -> int:
    """Return the bytes of an array in HBM, the shape size of `memory_traffic`."""
    return array.hbm_bytes


def _unpadded_bytes(array: HloArray) -> int:
    return array.bytes


def execution_bytes(
    module: HloModule, execution: Execution, shape_size: ShapeSize = _unpadded_bytes
) -> float:
    """Count the bytes that one execution of an instruction reads and writes.

    Of an array that is sliced only the slice counts, and of one that is updated in place only the
    update, as in HloCostAnalysis. `shape_size` returns the bytes of an array.
    """
    instruction, computation = execution.instruction, execution.computation
    if execution.fused or instruction.opcode in _FREE or instruction.opcode.endswith("-done"):
        return 0.0
    if any(f'custom_call_target="{name}"' in instruction.attributes for name in _ANNOTATIONS):
        return 0.0
    # An array that is several operands of a kernel counts once: each operand reads a part of it,
    # such as the queries of qkv.
    operands = [computation.arrays_of(name) for name in dict.fromkeys(instruction.operands)]
    if instruction.opcode in _ASYNC_COPIES:
        moved = instruction.results[1]
        return float(shape_size(moved) + _slice_bytes(shape_size, [moved], operands[0]))
    if instruction.opcode == "fusion":
        inside = module.computations.get(instruction.called_computation("calls") or "")
        if inside is not None:
            return _fusion_bytes(inside, shape_size)
    written = _bytes_written(computation, instruction, shape_size)
    return float(written + _bytes_read(instruction, operands, shape_size))


def _bytes_read(
    instruction: HloInstruction, operands: Sequence[Sequence[HloArray]], shape_size: ShapeSize
) -> int:
    if instruction.opcode in _SLICES:
        return _slice_bytes(shape_size, instruction.results, operands[0])
    if instruction.opcode == "dynamic-update-slice":
        operands = operands[1:]
    return sum(shape_size(array) for arrays in operands for array in arrays)


def _bytes_written(
    computation: HloComputation, instruction: HloInstruction, shape_size: ShapeSize
) -> int:
    if instruction.opcode == "dynamic-update-slice":
        update = computation.arrays_of(instruction.operands[1])
        return _slice_bytes(shape_size, update, instruction.results)
    if CUBLAS in instruction.attributes:
        return shape_size(instruction.results[0])
    return sum(map(shape_size, instruction.results))


def _slice_bytes(
    shape_size: ShapeSize, slices: Sequence[HloArray], whole: Sequence[HloArray]
) -> int:
    """Return the bytes of slices of an array in the memory and with the layout of that array."""
    rank, layout = (len(whole[0].shape), whole[0].layout) if whole else (0, "")
    in_vmem = bool(whole) and whole[0].in_vmem
    return sum(
        # A slice of another rank, such as the result of a gather, does not have the same tiles.
        shape_size(replace(part, layout=layout if in_vmem or len(part.shape) == rank else ""))
        for part in slices
    )


def _fusion_bytes(inside: HloComputation, shape_size: ShapeSize) -> float:
    """Count the bytes of the parameters and results of a fusion, whose inner values are free."""
    users: dict[str, list[HloInstruction]] = {}
    for instruction in inside.instructions.values():
        for name in instruction.operands:
            users.setdefault(name, []).append(instruction)
    parameters = (i for i in inside.instructions.values() if i.opcode == "parameter")
    read = sum(_parameter_bytes(users, i, i.results, shape_size) for i in parameters)
    root = inside.root
    parts = (
        [inside.instructions[name] for name in root.operands] if root.opcode == "tuple" else [root]
    )
    return float(read + sum(_result_bytes(inside, part, shape_size) for part in parts))


def _parameter_bytes(
    users: dict[str, list[HloInstruction]],
    value: HloInstruction,
    whole: Sequence[HloArray],
    shape_size: ShapeSize,
) -> int:
    """Count the bytes read of the parameter `whole`; `value` is the parameter or a view of it."""
    total = 0
    for user in users.get(value.name, ()):
        if user.opcode == "bitcast":
            total += _parameter_bytes(users, user, whole, shape_size)
        elif user.opcode in _SLICES and user.operands[0] == value.name:
            total += _slice_bytes(shape_size, user.results, whole)
        elif user.opcode == "dynamic-update-slice" and user.operands[0] == value.name:
            # The operand is updated in place, without being read.
            continue
        else:
            return sum(map(shape_size, whole))
    return min(total, sum(map(shape_size, whole)))


def _result_bytes(inside: HloComputation, part: HloInstruction, shape_size: ShapeSize) -> int:
    while part.opcode == "bitcast":
        part = inside.instructions[part.operands[0]]
    # A fusion that returns a parameter does not copy it.
    return 0 if part.opcode == "parameter" else _bytes_written(inside, part, shape_size)
