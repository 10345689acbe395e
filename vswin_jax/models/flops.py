"""Counts the FLOPs of a model from its configuration, without compiling or running a program.

One multiply-accumulate (MAC) is two floating-point operations (FLOPs). The counts include the
matrix products: patch embedding, qkv, attention logits and values, projection, MLP, merging and
head. They exclude norms, softmax, GELU and the optimizer. Windows count as they are computed:
padded to whole ones, with attention between all tokens of a window. The papers call the MACs of one
view "FLOPs".

A training step counts as three forward passes: the backward pass has two products for each one of
the forward pass. Those are the model FLOPs, from which model FLOPs utilization (MFU) is computed.
Rematerialisation repeats a part of the forward pass; hardware FLOPs include that, MFU does not.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np

from vswin_jax.attention import Size, WindowGeometry
from vswin_jax.models import SwinTransformer3D
from vswin_jax.runtime.hardware import chip_of

# The products of each block that a policy of `config.model.remat` computes again, because the
# backward pass needs their results and the policy does not store them. It needs the result of
# "values", since the division by the sum of the softmax comes after that product, and does not need
# that of "fc2". The fused kernels (`config.model.tokenwise`) compute "proj" and "fc1" again under
# every policy.
RECOMPUTED = {
    "none": (),
    "attention": ("logits", "values"),
    "dots": ("logits", "values"),
    "mlp": ("logits", "values", "proj", "fc1"),
    "block": ("qkv", "logits", "values", "proj", "fc1"),
}


@dataclass(frozen=True)
class Macs:
    """Multiply-accumulates of the forward pass of one clip.

    Attributes:
      patch_embed: MACs of the patch embedding.
      blocks: MACs of the blocks of each stage, by product.
      merges: MACs of the patch merging after each stage, 0 after the last.
      head: MACs of the classification head.
    """

    patch_embed: int
    blocks: tuple[dict[str, int], ...]
    merges: tuple[int, ...]
    head: int

    @property
    def stages(self) -> tuple[int, ...]:
        """MACs of each stage, with its patch merging."""
        pairs = zip(self.blocks, self.merges, strict=True)
        return tuple(sum(products.values()) + merge for products, merge in pairs)

    @property
    def total(self) -> int:
        """MACs of the whole forward pass."""
        return self.patch_embed + sum(self.stages) + self.head


def forward_macs(model: SwinTransformer3D, clip: Size) -> Macs:
    """Count the MACs of one clip of (frames, height, width)."""
    pairs = zip(clip, model.patch_size, strict=True)
    grid = tuple(-(-extent // patch) for extent, patch in pairs)
    patch = math.prod(model.patch_size) * 3
    embedding = math.prod(grid) * patch * model.embed_dim
    blocks, merges, channels = [], [], model.embed_dim
    for index, depth in enumerate(model.depths):
        blocks.append(_block_macs(model, grid, channels, depth))
        merges.append(0)
        if index + 1 < len(model.depths):
            grid = (grid[0], -(-grid[1] // 2), -(-grid[2] // 2))
            merges[-1] = math.prod(grid) * 4 * channels * 2 * channels
            channels *= 2
    return Macs(embedding, tuple(blocks), tuple(merges), channels * model.num_classes)


def _block_macs(model: SwinTransformer3D, grid: Size, channels: int, depth: int) -> dict[str, int]:
    """Count the MACs of `depth` blocks; a shift does not change the counts."""
    geometry = WindowGeometry.create(grid, model.window_size, (0, 0, 0))
    tokens, padded = math.prod(grid), math.prod(geometry.padded_grid)
    hidden = int(channels * model.mlp_ratio)
    products = {
        "qkv": padded * channels * 3 * channels,
        "logits": padded * geometry.tokens * channels,
        "values": padded * geometry.tokens * channels,
        "proj": padded * channels * channels,
        "fc1": tokens * channels * hidden,
        "fc2": tokens * hidden * channels,
    }
    return {name: depth * count for name, count in products.items()}


def model_flops(model: SwinTransformer3D, clip: Size) -> int:
    """Count the FLOPs of one training step for one clip of (frames, height, width).

    Frozen stages count as one forward pass, since they have no backward pass.
    """
    macs = forward_macs(model, clip)
    parts = (macs.patch_embed, *macs.stages, macs.head)
    frozen = np.arange(len(parts)) <= model.frozen_stages
    frozen[-1] = False
    return 2 * sum(
        count * (1 if is_frozen else 3) for count, is_frozen in zip(parts, frozen, strict=True)
    )


def hardware_flops(model: SwinTransformer3D, clip: Size) -> int:
    """Count `model_flops` and the FLOPs that the remat policy of the model computes again."""
    blocks = forward_macs(model, clip).blocks[max(model.frozen_stages, 0) :]
    recomputed = sum(products[name] for products in blocks for name in RECOMPUTED[model.remat])
    return model_flops(model, clip) + 2 * recomputed


def ideal_step_seconds(
    model: SwinTransformer3D, clip: Size, batch_size: int, devices: Sequence[jax.Device]
) -> float | None:
    """Return the seconds of a step at the peak FLOP/s of all `devices`, or None if unknown.

    The MFU is this time divided by the measured time of a step. The peak is that of bfloat16, which
    MFU is quoted against whatever the dtype.
    """
    chips = [chip_of(device.device_kind) for device in devices]
    if None in chips:
        return None
    return batch_size * model_flops(model, clip) / sum(chip.flops for chip in chips if chip)
