"""Pallas kernels for TPUs, and the choice of their blocks.

Window attention (called by the room `attention`, which decides when to use it):

* `attention_tpu`: the two `pallas_call`s, forward and backward, as one differentiable function.
* `attention_tpu_bodies`: the kernel bodies; `attention_tpu_operands`: the blocks that both read.
* `attention_tpu_tiling`: the sizes of blocks that fit a chip.
* `attention_tpu_block_specs`: the block of each array that a grid step works on.

The token-by-token layers of a block:

* `fused_layers`: the public functions below; chooses between kernels and plain layers.
* `layer_norm_dense`: LayerNorm and qkv, before attention.
* `layer_norm_mlp`: projection, residual, LayerNorm, MLP and residual, after attention.
* `token_calls`: the `pallas_call` that both share; `token_tiling`: its blocks.
* `token_arithmetic`: LayerNorm and GELU with their gradients, also used by the plain layers.

`chip_memory` has the VMEM capacity that both choices of blocks must respect.
"""

from vswin_jax.kernels.fused_layers import IMPLEMENTATIONS, add_branches, norm_dense, should_fuse
from vswin_jax.kernels.layer_norm_dense import NormDenseParams
from vswin_jax.kernels.layer_norm_mlp import BranchParams

__all__ = [
    "IMPLEMENTATIONS",
    "BranchParams",
    "NormDenseParams",
    "add_branches",
    "norm_dense",
    "should_fuse",
]
