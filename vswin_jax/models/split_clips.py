"""Models whose clips are split over several devices."""

from jax.sharding import Mesh

from vswin_jax.attention import ClipSharding, Size
from vswin_jax.errors import InputError
from vswin_jax.models.attention_registry import is_reference
from vswin_jax.models.swin3d import SwinTransformer3D
from vswin_jax.sharding.constraints import WINDOW_AXIS


def split_clips(
    model: SwinTransformer3D, mesh: Mesh, over: str, clip: Size | None = None
) -> SwinTransformer3D:
    """Split the clips of `model` along "time" or "height" over the `window` axis of `mesh`.

    Parameters, results and random draws do not change. Where the axis has size 1, `model` itself is
    returned. A `clip` size (frames, height, width) is checked now, and not only in each call.

    Raises:
      InputError: The clips do not split into whole windows, or the model has attention dropout.
    """
    if mesh.shape[WINDOW_AXIS] == 1:
        return model
    if model.attn_drop_rate:
        raise InputError(
            f"Expected model.attn_drop_rate to be 0 with mesh.window={mesh.shape[WINDOW_AXIS]}, "
            f"because each device would draw its own, but it is {model.attn_drop_rate}: use "
            f"model.drop_rate, or mesh.window=1.",
            ["model.attn_drop_rate", "mesh.window", "model.drop_rate"],
        )
    if not is_reference(model.attention_layer):
        raise InputError(
            f"Expected model.attention_layer to be 'reference' with mesh.window="
            f"{mesh.shape[WINDOW_AXIS]}, because other layers see whole clips, but it is "
            f"{model.attention_layer!r}: use mesh.window=1.",
            ["model.attention_layer", "mesh.window"],
        )
    split = model.clone(clip_sharding=ClipSharding(mesh, over))
    if clip is not None:
        split.check_clip(clip)
    return split
