"""The test views of a prediction, which may differ from those of the run."""

import dataclasses

from vswin_jax.data.clips.clip_spec import ClipSpec
from vswin_jax.errors import InputError, rename_arguments

_NAMES = {
    "num_clips": "the number of clips in views",
    "num_crops": "the number of crops in views",
    "sampling": "the run's sampling",
}


def with_views(spec: ClipSpec, views: tuple[int, int] | None) -> ClipSpec:
    """Return `spec` with other (clips along time, crops along the longer side); None keeps its own.

    Raises:
      InputError: the views are impossible.
    """
    if views is None:
        return spec
    if len(views) != 2 or not all(isinstance(count, int) for count in views):
        raise InputError(f"Expected views as (clips, crops), such as (4, 3), but {views} came.")
    clips, crops = views
    # Several crops lie along the longer side, so the shorter one has to fit exactly.
    short_side = spec.size if crops > 1 else spec.eval_short_side
    with rename_arguments(_NAMES):
        return dataclasses.replace(spec, num_clips=clips, num_crops=crops, eval_resize=short_side)
