"""What a run keeps on a chip, from its shapes alone, and numbers for people."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import PartitionSpec

from vswin_jax.analysis.dry_run.programs import Subject
from vswin_jax.sharding.mesh import batch_parts

GIB = 2**30


def bytes_in_all(tree: Any) -> int:
    """Of all leaves, each once."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def bytes_a_chip(tree: Any) -> int:
    """Of each leaf the part that one device holds."""
    return sum(_shard_bytes(leaf) for leaf in jax.tree.leaves(tree))


def _shard_bytes(leaf: jax.ShapeDtypeStruct) -> int:
    return int(np.prod(leaf.sharding.shard_shape(leaf.shape))) * leaf.dtype.itemsize


@dataclass(frozen=True)
class Layout:
    """The parameters that are laid out in one way."""

    spec: PartitionSpec
    tensors: int
    in_all: int
    a_chip: int
    example: str

    def __str__(self) -> str:
        axes = [(place, axis) for place, axis in enumerate(self.spec) if axis is not None]
        if not axes:
            return "whole on every device"
        return "axis " + ", ".join(f"{place} over {_names(axis)}" for place, axis in axes)


def _names(axis: str | tuple[str, ...]) -> str:
    return axis if isinstance(axis, str) else " x ".join(axis)


def layouts(params: Any) -> list[Layout]:
    """How parameters are laid out, the heaviest way first; the example is its largest tensor."""
    groups: dict[PartitionSpec, list[tuple[str, Any]]] = {}
    for path, leaf in jax.tree.leaves_with_path(params):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        groups.setdefault(leaf.sharding.spec, []).append((name, leaf))
    found = [_layout(spec, leaves) for spec, leaves in groups.items()]
    return sorted(found, key=lambda layout: -layout.in_all)


def _layout(spec: PartitionSpec, named: Iterable[tuple[str, Any]]) -> Layout:
    named = list(named)
    leaves = [leaf for _, leaf in named]
    name, largest = max(named, key=lambda pair: pair[1].size)
    shape = "x".join(map(str, largest.shape))
    return Layout(
        spec, len(leaves), bytes_in_all(leaves), bytes_a_chip(leaves), f"{name} [{shape}]"
    )


def micro_rows(subject: Subject) -> int:
    """Clips of a micro-batch on each part of the mesh's batch axes."""
    train = subject.config.train
    return train.batch_size // train.accumulate // batch_parts(subject.mesh)


def extents(subject: Subject) -> tuple[int, int, int]:
    """Tokens of a clip along (time, height, width) in the first stage."""
    data, patch = subject.config.data, subject.model.patch_size
    return tuple(
        -(-pixels // size)
        for pixels, size in zip((data.num_frames, data.size, data.size), patch, strict=True)
    )


def tokens(subject: Subject) -> list[tuple[int, int]]:
    """(tokens of a clip, channels) of each stage, without padding."""
    time, height, width = extents(subject)
    return [
        (time * -(-height // 2**stage) * -(-width // 2**stage), subject.model.embed_dim * 2**stage)
        for stage in range(len(subject.model.depths))
    ]


def block_inputs_bytes(subject: Subject, rows: int) -> int:
    """What remat="block" keeps of `rows` clips: the input of every block."""
    model = subject.model
    item = model.dtype.itemsize
    depths = zip(tokens(subject), model.depths, strict=True)
    return int(sum(rows * count * dim * item * depth for (count, dim), depth in depths))


def logits_bytes(subject: Subject, rows: int) -> int:
    """The float32 attention logits of one block of the first stage, for `rows` clips."""
    model, sizes = subject.model, extents(subject)
    window = np.minimum(model.window_size, sizes)
    return int(rows * np.prod(sizes) * np.prod(window) * model.num_heads[0] * 4)


def memory(size: float) -> str:
    """Bytes in a binary unit: 1.41 GiB, 352 MiB."""
    for unit, scale in (("GiB", GIB), ("MiB", 2**20)):
        if size >= scale / 10:
            return (
                f"{size / scale:.3g} {unit}"
                if size < 1000 * scale
                else f"{size / scale:.0f} {unit}"
            )
    return f"{size / 2**10:.3g} KiB"


def amount(value: float, unit: str) -> str:
    """A number in a decimal unit: 740 GB, 17.4 TFLOP."""
    for prefix, size in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{value / size:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"


def duration(seconds: float) -> str:
    """Seconds for people, from nanoseconds up."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"
