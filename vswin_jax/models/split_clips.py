"""A model whose clips are shared by several devices."""

from jax.sharding import Mesh

from vswin_jax.attention import ClipSharding, Size
from vswin_jax.errors import InputError
from vswin_jax.models.swin3d import SwinTransformer3D
from vswin_jax.sharding.constraints import WINDOW_AXIS


def split_clips(
    model: SwinTransformer3D, mesh: Mesh, over: str, clip: Size | None = None
) -> SwinTransformer3D:
    """`model` with its clips split over the `window` axis of `mesh`, along "time" or "height".

    Where that axis is 1 it is `model` itself. Its parameters, its results and its random draws are
    those of `model`. `clip` is the size (frames, height, width) that it is meant for; others are
    checked when they come.

    Raises:
      InputError: clips that do not split into whole windows, or attention dropout.
    """
    if mesh.shape[WINDOW_AXIS] == 1:
        return model
    if model.attn_drop_rate:
        raise InputError(
            f"Expected model.attn_drop_rate to be 0 with mesh.window={mesh.shape[WINDOW_AXIS]}, "
            f"because each device would draw its own, but it is {model.attn_drop_rate}: use "
            f"model.drop_rate, or mesh.window=1."
        )
    split = model.clone(clip_sharding=ClipSharding(mesh, over))
    if clip is not None:
        split.check_clip(clip)
    return split
