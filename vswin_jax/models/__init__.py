"""Video Swin Transformer in Flax Linen."""

from vswin_jax.models.attention_layer import AttentionLayer
from vswin_jax.models.attention_registry import register_attention
from vswin_jax.models.split_clips import split_clips
from vswin_jax.models.swin3d import SwinTransformer3D, init_params, is_frozen
from vswin_jax.models.variants import OVERRIDES, VARIANTS, Variant, create_model

__all__ = [
    "OVERRIDES",
    "VARIANTS",
    "AttentionLayer",
    "SwinTransformer3D",
    "Variant",
    "create_model",
    "init_params",
    "is_frozen",
    "register_attention",
    "split_clips",
]
