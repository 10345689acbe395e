"""Sizes of parameters, state and activations, computed from shapes, and number formatting."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import PartitionSpec

from vswin_jax.analysis.dry_run.programs import CompileResult, CompileTarget
from vswin_jax.runtime.hardware import GIB
from vswin_jax.sharding.mesh import num_batch_shards

# A suggestion must save at least this fraction of the memory of a device.
_MIN_SAVING = 0.05


def total_bytes(tree: Any) -> int:
    """Return the bytes of all leaves, each counted once."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def bytes_per_device(tree: Any) -> int:
    """Return the bytes of the shards of all leaves on one device."""
    return sum(_shard_bytes(leaf) for leaf in jax.tree.leaves(tree))


def _shard_bytes(leaf: jax.ShapeDtypeStruct) -> int:
    return int(np.prod(leaf.sharding.shard_shape(leaf.shape))) * leaf.dtype.itemsize


@dataclass(frozen=True)
class ParameterLayout:
    """The parameters with the same sharding.

    Attributes:
      spec: The sharding.
      tensors: The number of parameters.
      total: Their bytes.
      per_device: The bytes of their shards on one device.
      example: The path and the shape of the largest of them.
    """

    spec: PartitionSpec
    tensors: int
    total: int
    per_device: int
    example: str

    def __str__(self) -> str:
        axes = [(index, axis) for index, axis in enumerate(self.spec) if axis is not None]
        if not axes:
            return "replicated"
        return "axis " + ", ".join(f"{index} over {_names(axis)}" for index, axis in axes)


def _names(axis: str | tuple[str, ...]) -> str:
    return axis if isinstance(axis, str) else " x ".join(axis)


def layouts(params: Any) -> list[ParameterLayout]:
    """Group parameters by their sharding, the group with the most bytes first."""
    groups: dict[PartitionSpec, list[tuple[str, Any]]] = {}
    for path, leaf in jax.tree.leaves_with_path(params):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        groups.setdefault(leaf.sharding.spec, []).append((name, leaf))
    found = [_layout(spec, leaves) for spec, leaves in groups.items()]
    return sorted(found, key=lambda layout: -layout.total)


def _layout(spec: PartitionSpec, named: Iterable[tuple[str, Any]]) -> ParameterLayout:
    named = list(named)
    leaves = [leaf for _, leaf in named]
    name, largest = max(named, key=lambda pair: pair[1].size)
    shape = "x".join(map(str, largest.shape))
    return ParameterLayout(
        spec=spec,
        tensors=len(leaves),
        total=total_bytes(leaves),
        per_device=bytes_per_device(leaves),
        example=f"{name} [{shape}]",
    )


def min_saving(result: CompileResult) -> float:
    """Return the bytes that a change must save on a device to be suggested."""
    return result.available * _MIN_SAVING


def can_shard_state(target: CompileTarget) -> bool:
    """Return True if the mesh could shard the state, which it replicates."""
    return target.mesh.shape["fsdp"] == 1 and target.mesh.shape["data"] > 1


def microbatch_size(target: CompileTarget) -> int:
    """Return the clips of a micro-batch in each batch shard."""
    train = target.config.train
    return train.batch_size // train.grad_accum_steps // num_batch_shards(target.mesh)


def grid_size(target: CompileTarget) -> tuple[int, int, int]:
    """Return the tokens of a clip along (time, height, width) in the first stage."""
    data, patch = target.config.data, target.model.patch_size
    return tuple(
        -(-pixels // size)
        for pixels, size in zip((data.num_frames, data.size, data.size), patch, strict=True)
    )


def tokens_per_stage(target: CompileTarget) -> list[tuple[int, int]]:
    """Return (tokens of a clip, channels) of each stage, without padding."""
    time, height, width = grid_size(target)
    return [
        (time * -(-height // 2**stage) * -(-width // 2**stage), target.model.embed_dim * 2**stage)
        for stage in range(len(target.model.depths))
    ]


def block_inputs_bytes(target: CompileTarget, rows: int) -> int:
    """Return the bytes that remat="block" stores of `rows` clips: the input of every block."""
    model = target.model
    itemsize = model.dtype.itemsize
    stages = zip(tokens_per_stage(target), model.depths, strict=True)
    return int(sum(rows * count * dim * itemsize * depth for (count, dim), depth in stages))


def logits_bytes(target: CompileTarget, rows: int) -> int:
    """Return the bytes of the float32 attention logits of one block of the first stage."""
    model, grid = target.model, grid_size(target)
    window = np.minimum(model.window_size, grid)
    return int(rows * np.prod(grid) * np.prod(window) * model.num_heads[0] * 4)


def format_bytes(size: float) -> str:
    """Format bytes in a binary unit: 1.41 GiB, 352 MiB."""
    for unit, scale in (("GiB", GIB), ("MiB", 2**20)):
        if size >= scale / 10:
            return (
                f"{size / scale:.3g} {unit}"
                if size < 1000 * scale
                else f"{size / scale:.0f} {unit}"
            )
    return f"{size / 2**10:.3g} KiB"


def format_si(value: float, unit: str) -> str:
    """Format a number with a decimal prefix: 740 GB, 17.4 TFLOP."""
    for prefix, size in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{value / size:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"


def format_seconds(seconds: float) -> str:
    """Format seconds in s, ms, us or ns."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"
