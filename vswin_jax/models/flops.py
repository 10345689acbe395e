"""The arithmetic of a model, counted from its configuration: no program is compiled or run.

One multiply-accumulate (MAC) is two floating-point operations (FLOPs). Counted are the matrix
products: patch embedding, qkv, attention logits and values, projection, MLP, merging and head.
Norms, softmax, GELU and the optimizer are left out; the papers call the MACs of one view "FLOPs".
Windows are counted as they are computed: padded to whole ones, with attention between all tokens
of a window.

A training step is three forward passes: the backward pass has two products for each one of the
forward pass. Those are the model FLOPs, which MFU counts. Rematerialisation makes the hardware
do some of the forward pass twice; that is no useful work, and MFU leaves it out.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np

from vswin_jax.attention import Size, WindowGeometry
from vswin_jax.models import SwinTransformer3D
from vswin_jax.runtime.hardware import chip_of

# What a policy of `config.model.remat` computes again: of each block, the products whose results
# are not stored but needed. That of the values is, for the division by the softmax's sum comes
# after it; the second one of the MLP is not. Kernels for tokens (`config.model.tokenwise`) compute
# "proj" and "fc1" again under every policy.
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

    patch_embed, head: of the two ends; blocks: by product, for each stage; merges: after each
    stage, 0 after the last.
    """

    patch_embed: int
    blocks: tuple[dict[str, int], ...]
    merges: tuple[int, ...]
    head: int

    @property
    def stages(self) -> tuple[int, ...]:
        """Of each stage, with its merge."""
        pairs = zip(self.blocks, self.merges, strict=True)
        return tuple(sum(products.values()) + merge for products, merge in pairs)

    @property
    def total(self) -> int:
        """Of the whole forward pass."""
        return self.patch_embed + sum(self.stages) + self.head


def forward_macs(model: SwinTransformer3D, clip: Size) -> Macs:
    """The MACs of one clip of (frames, height, width)."""
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
    """Of `depth` blocks; shifting moves tokens between windows and changes no count."""
    geometry = WindowGeometry.create(grid, model.window_size, (0, 0, 0))
    tokens, padded = math.prod(grid), math.prod(geometry.padded)
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
    """The FLOPs of one training step for one clip of (frames, height, width).

    Frozen stages count once: nothing flows back through them.
    """
    macs = forward_macs(model, clip)
    parts = (macs.patch_embed, *macs.stages, macs.head)
    frozen = np.arange(len(parts)) <= model.frozen_stages
    frozen[-1] = False
    return 2 * int(
        sum(macs * (1 if still else 3) for macs, still in zip(parts, frozen, strict=True))
    )


def hardware_flops(model: SwinTransformer3D, clip: Size) -> int:
    """`model_flops` and what the model's remat policy computes a second time."""
    blocks = forward_macs(model, clip).blocks[max(model.frozen_stages, 0) :]
    again = sum(products[name] for products in blocks for name in RECOMPUTED[model.remat])
    return model_flops(model, clip) + 2 * again


def ideal_step_seconds(
    model: SwinTransformer3D, clip: Size, batch_size: int, devices: Sequence[jax.Device]
) -> float | None:
    """How long a step takes at the peak of all `devices`; over the real time that is the MFU.

    The peak is that of bfloat16, which is what MFU is quoted against whatever the dtype. None
    where it is not known.
    """
    chips = [chip_of(device.device_kind) for device in devices]
    if None in chips:
        return None
    return batch_size * model_flops(model, clip) / sum(chip.flops for chip in chips if chip)
