"""The published model variants, and `create_model`, which builds them."""

import dataclasses
from dataclasses import dataclass

import jax.numpy as jnp
from jax.typing import DTypeLike

from vswin_jax.errors import InputError, unknown_name
from vswin_jax.models.swin3d import SwinTransformer3D


@dataclass(frozen=True)
class Variant:
    """The sizes of a published variant.

    Attributes:
      embed_dim: Channels of the first stage.
      depths: The number of blocks of each stage.
      num_heads: The number of attention heads of each stage.
    """

    embed_dim: int
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]


# Video Swin Transformer, section 3.3.
VARIANTS = {
    "swin_tiny": Variant(96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "swin_small": Variant(96, (2, 2, 18, 2), (3, 6, 12, 24)),
    "swin_base": Variant(128, (2, 2, 18, 2), (4, 8, 16, 32)),
    "swin_large": Variant(192, (2, 2, 18, 2), (6, 12, 24, 48)),
}

DTYPES = ("float32", "bfloat16")

# All but the fields of Flax itself (`parent`, `name`), the other arguments of `create_model`
# (`num_classes`, `dtype`) and the one that `split_clips` sets.
OVERRIDES = tuple(
    field.name
    for field in dataclasses.fields(SwinTransformer3D)
    if field.name not in ("parent", "name", "num_classes", "dtype", "clip_sharding")
)

_PER_AXIS = ("window_size", "patch_size")
_PER_STAGE = ("depths", "num_heads")


def _check_dtype(dtype: DTypeLike) -> jnp.dtype:
    name = dtype if isinstance(dtype, str) else jnp.dtype(dtype).name
    if name not in DTYPES:
        raise unknown_name("compute dtype", name, DTYPES, "dtype")
    return jnp.dtype(name)


def _check_stages(fields: dict[str, object]) -> None:
    for name in _PER_AXIS:
        if name in fields and (len(fields[name]) != 3 or min(fields[name]) < 1):
            raise InputError(
                f"{name} is {fields[name]}: give three positive numbers (time, height, width).",
                [name],
            )
    depths, heads, dim = fields["depths"], fields["num_heads"], fields["embed_dim"]
    if len(depths) != len(heads):
        raise InputError(
            f"depths {depths} and num_heads {heads} differ in length: give one of each per stage.",
            ["depths", "num_heads"],
        )
    for stage, count in enumerate(heads):
        if (dim * 2**stage) % count:
            raise InputError(
                f"Stage {stage} has {dim * 2**stage} channels, which {count} heads do not divide: "
                f"change embed_dim or num_heads.",
                ["embed_dim", "num_heads"],
            )


def create_model(
    name: str = "swin_tiny",
    num_classes: int = 400,
    dtype: DTypeLike = "float32",
    **overrides: object,
) -> SwinTransformer3D:
    """Build a Video Swin Transformer as a Flax Linen module.

    Args:
      name: `swin_tiny`, `swin_small`, `swin_base` or `swin_large`.
      num_classes: The number of outputs of the head; 0 for no head, so that the model returns
        pooled features.
      dtype: The compute dtype, `"float32"` or `"bfloat16"`; parameters and logits are float32.
      **overrides: Any other field of `SwinTransformer3D`, for example `window_size=(16, 7, 7)`;
        None keeps the value of the variant.

    Raises:
      InputError: A name, override, choice or dtype is unknown, or sizes do not fit together.
    """
    if name not in VARIANTS:
        raise unknown_name("model", name, VARIANTS, "name")
    fields = dataclasses.asdict(VARIANTS[name])
    for key, value in overrides.items():
        if key not in OVERRIDES:
            raise unknown_name("model setting", key, {*OVERRIDES, "num_classes", "dtype"})
        if value is not None:
            fields[key] = tuple(value) if key in _PER_AXIS + _PER_STAGE else value
    _check_stages(fields)
    model = SwinTransformer3D(num_classes=num_classes, dtype=_check_dtype(dtype), **fields)
    model.check_names()
    return model
