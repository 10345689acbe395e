import math

import pytest

from vswin_jax.data.clips import sampling
from vswin_jax.data.clips.clip_spec import ClipSpec
from vswin_jax.inference.exports.export_description import describe_preprocessing


@pytest.mark.parametrize("total", [40, 64, 65, 300])
def test_the_sentence_about_frames_gives_those_of_the_evaluation(total: int) -> None:
    spec = ClipSpec(num_frames=32, frame_interval=2, num_clips=4)
    sentence = describe_preprocessing(spec)["frames"]
    assert sentence.startswith(
        "32 frames at a distance of 2, from frame floor((c + 1/2) * (N - 63) / 4) for clip c"
    )
    first = sampling.dense_test(total, 32, 2, 4)[:, 0]
    expected = [math.floor((c + 1 / 2) * (total - 63) / 4) if total >= 64 else 0 for c in range(4)]
    assert first.tolist() == expected


def test_views_and_sizes_are_those_of_the_evaluation() -> None:
    spec = ClipSpec(num_clips=1, num_crops=3, sampling="uniform", num_frames=16, fps=12.5)
    description = describe_preprocessing(spec)
    assert description["frames"].startswith("the middle frame of each of 16 equal segments")
    assert description["crops"] == "three along the longer side: start, end, middle"
    assert description["num_views"] == 3
    assert (description["short_side"], description["crop"]) == (224, 224)
    assert description["frames_per_second"] == 12.5
