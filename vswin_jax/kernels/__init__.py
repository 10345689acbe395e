"""What a block does to tokens one by one, all but attention, as kernels for TPUs."""

from vswin_jax.kernels.fused_layers import IMPLEMENTATIONS, add_branches, fuses, norm_dense
from vswin_jax.kernels.layer_norm_dense import NormDense
from vswin_jax.kernels.layer_norm_mlp import Branches

__all__ = ["IMPLEMENTATIONS", "Branches", "NormDense", "add_branches", "fuses", "norm_dense"]
