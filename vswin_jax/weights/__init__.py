"""PyTorch and our own checkpoint files as parameter trees; no torch, no TensorFlow."""

from vswin_jax.weights.inflate import inflate, is_2d
from vswin_jax.weights.load import load_weights
from vswin_jax.weights.names import canonical, from_state_dict, to_state_dict

__all__ = ["canonical", "from_state_dict", "inflate", "is_2d", "load_weights", "to_state_dict"]
