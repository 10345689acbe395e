"""Counts the FLOPs of HLO instructions: matrix products, convolutions and kernels."""

import math
import re

import numpy as np

from vswin_jax.analysis.hlo_module import Execution, HloArray, HloInstruction

# The start of the target of cuBLAS calls; their second result is the workspace.
CUBLAS = '"__cublas$'


def execution_flops(execution: Execution) -> float:
    """Count 2 FLOPs for each multiply-add of one execution of a matrix product or convolution.

    For a Pallas kernel, return its own `pl.CostEstimate`. For calls of cuDNN's attention and of
    cuBLAS, count their matrix products.
    """
    instruction = execution.instruction
    if instruction.opcode == "custom-call":
        if '"__cudnn$fmha' in instruction.attributes:
            return _attention_flops(execution)
        if CUBLAS in instruction.attributes:
            return _dot_flops(execution, r'"lhs_contracting_dimensions":\[([\d,"]*)\]')
        estimate = re.search(
            r'"cost_estimate":\s*\{[^}]*"flops":\s*"?(\d+)', instruction.attributes
        )
        return float(estimate[1]) if estimate else 0.0
    if instruction.opcode not in ("dot", "convolution"):
        return 0.0
    if instruction.opcode == "dot":
        return _dot_flops(execution, r"lhs_contracting_dims=\{([\d,]*)\}")
    operands = execution.computation.operands(instruction)
    return _convolution_flops(instruction, *operands) if len(operands) == 2 else 0.0


def _dot_flops(execution: Execution, contracting: str) -> float:
    """Count the FLOPs of a dot; `contracting` matches the contracting axes of its left operand."""
    instruction = execution.instruction
    left = execution.computation.operands(instruction)[0]
    axes = _numbers(instruction.attributes, contracting)
    return 2.0 * instruction.results[0].size * math.prod(left.shape[axis] for axis in axes)


def _attention_flops(execution: Execution) -> float:
    """Count two products of `[G, N, heads, dim]` operands, or five for the backward pass."""
    query, key = execution.computation.operands(execution.instruction)[:2]
    products = 5 if "Backward" in execution.instruction.attributes else 2
    return 2.0 * products * query.size * key.shape[1]


def _convolution_flops(instruction: HloInstruction, data: HloArray, kernel: HloArray) -> float:
    """Count the FLOPs of a convolution as HloCostAnalysis does: without those on padding.

    TPU programs write batches of matrix products as convolutions with much padding and dilation.
    """
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.attributes)
    result = instruction.results[0]
    if labels is None:
        return 0.0
    data_dims, kernel_dims, result_dims = labels.groups()
    spatial = sorted(set(result_dims) - set("bf"))
    positions = math.prod(
        _valid_positions(
            instruction.attributes,
            axis,
            data=data.shape[data_dims.index(digit)],
            kernel=kernel.shape[kernel_dims.index(digit)],
            result=result.shape[result_dims.index(digit)],
        )
        for axis, digit in enumerate(spatial)
    )
    outer = result.shape[result_dims.index("b")] * result.shape[result_dims.index("f")]
    groups = _numbers(instruction.attributes, r"batch_group_count=(\d+)") or [1]
    return 2.0 * outer * kernel.shape[kernel_dims.index("i")] * positions / groups[0]


def _valid_positions(attributes: str, axis: int, data: int, kernel: int, result: int) -> int:
    """Count the pairs (result index, kernel index) that read data, not padding, along one axis."""
    window = re.search(r"window=\{([^}]*)\}", attributes)
    fields = dict(re.findall(r"(\w+)=(\S+)", window[1])) if window else {}

    def field(name: str, default: str) -> str:
        return fields[name].split("x")[axis] if name in fields else default

    stride, pad_low = int(field("stride", "1")), int(field("pad", "0_0").split("_")[0])
    data_dilation, kernel_dilation = int(field("lhs_dilate", "1")), int(field("rhs_dilate", "1"))
    position = (
        np.arange(result)[:, None] * stride + np.arange(kernel)[None] * kernel_dilation - pad_low
    )
    on_data = (position % data_dilation == 0) & (position // data_dilation < data)
    return int(((position >= 0) & on_data).sum())


def _numbers(attributes: str, pattern: str) -> list[int]:
    found = re.search(pattern, attributes)
    return [int(n) for n in found[1].replace('"', "").split(",") if n] if found else []
