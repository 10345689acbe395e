import dataclasses

import numpy as np
import pytest

from vswin_jax.data.clips.clip_spec import ClipSpec
from vswin_jax.errors import InputError
from vswin_jax.inference.exports.comparison import Comparison
from vswin_jax.inference.exports.comparison_clips import comparison_clips

RIGHT = Comparison(difference=1e-4, num_clips=4, clips="any", export_rate=1.0, model_rate=1.0)


def test_the_tolerance_is_inclusive_and_refuses_nan() -> None:
    RIGHT.check()
    for difference in (1.1e-4, float("nan")):
        with pytest.raises(InputError, match="was deleted"):
            dataclasses.replace(RIGHT, difference=difference).check()


@pytest.mark.parametrize("size", [15, 64])
def test_drawn_clips_move_and_have_the_size_of_the_model(size: int) -> None:
    clips, origin = comparison_clips([], ClipSpec(num_frames=5, size=size, resize=64))
    assert origin == "moving shapes"
    assert clips.shape == (4, 5, size, size, 3)
    assert clips.dtype == np.uint8
    assert all((clip[0] != clip[-1]).mean() > 0.1 for clip in clips)
