"""Reads and replaces activations inside a model, without a line in the model's own code.

Flax's method interceptors see each call of a layer. They exist only while an explanation is traced,
so the programs of training, evaluation and prediction stay as they are.
"""

from collections.abc import Callable
from typing import Any

from flax import linen as nn

from vswin_jax.errors import InputError
from vswin_jax.models import SwinTransformer3D

# Gets a layer, the arguments of its call and the result; returns the result to use instead.
Replace = Callable[[Any, tuple[Any, ...], Any], Any]


def plain_model(model: SwinTransformer3D) -> SwinTransformer3D:
    """Return the model with plain layers, whose parameters and values are the same.

    Fused kernels skip the layers, groups of windows call them within a loop, and in window order a
    block's output is no feature map.
    """
    return model.clone(
        attention="xla", tokenwise="xla", token_order="map", remat="none", clip_sharding=None
    )


def intercept_layer(path: tuple[str, ...], replace: Replace) -> Any:
    """Return a context in which `replace` sees the calls of the layer at `path`."""

    def interceptor(
        call: Callable[..., Any],
        arguments: tuple[Any, ...],
        options: dict[str, Any],
        context: nn.module.InterceptorContext,
    ) -> Any:
        result = call(*arguments, **options)
        is_layer = context.module.path == path and context.method_name == "__call__"
        return replace(context.module, arguments, result) if is_layer else result

    return nn.intercept_methods(interceptor)


def check_stage(model: SwinTransformer3D, stage: int) -> int:
    """Return `stage`.

    Raises:
      InputError: the model has no such stage.
    """
    return _check_index("stage", stage, len(model.depths), "the model")


def check_block(model: SwinTransformer3D, stage: int, block: int | None) -> int:
    """Return `block`, by default the last one of the stage.

    Raises:
      InputError: the stage has no such block.
    """
    blocks = model.depths[stage]
    return blocks - 1 if block is None else _check_index("block", block, blocks, f"stage {stage}")


def check_head(model: SwinTransformer3D, stage: int, head: int | None) -> int | None:
    """Return `head`; None for the mean of all.

    Raises:
      InputError: the stage has no such head.
    """
    if head is None:
        return None
    return _check_index("head", head, model.num_heads[stage], f"stage {stage}")


def _check_index(name: str, index: int, count: int, owner: str) -> int:
    if 0 <= index < count:
        return index
    raise InputError(
        f"Expected {name} to be from 0 to {count - 1}, since {owner} has {count}, but {index} "
        f"came: change it.",
        [name],
    )
