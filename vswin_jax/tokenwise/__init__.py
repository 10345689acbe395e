"""What a block does to tokens one by one, all but attention, as kernels for TPUs."""

from vswin_jax.tokenwise.after import Branches
from vswin_jax.tokenwise.before import NormDense
from vswin_jax.tokenwise.choice import IMPLEMENTATIONS, add_branches, fuses, norm_dense

__all__ = ["IMPLEMENTATIONS", "Branches", "NormDense", "add_branches", "fuses", "norm_dense"]
