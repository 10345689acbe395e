"""The frames and times of windows."""

import numpy as np
import pytest

from vswin_jax.data.clips import sampling
from vswin_jax.data.clips.clip_spec import ClipSpec
from vswin_jax.data.clips.window_plan import check_windows, plan_windows
from vswin_jax.errors import InputError

DENSE = ClipSpec(num_frames=4, frame_interval=2, size=32, resize=32)
UNIFORM = ClipSpec(num_frames=4, sampling="uniform", num_clips=1, size=32, resize=32)


def at_rate(count: int, rate: float) -> np.ndarray:
    return np.arange(count) / rate


def test_windows_begin_at_multiples_of_the_stride_and_end_with_the_video() -> None:
    # 3.2 seconds; a window has 8 frames, 0.8 seconds.
    plan = plan_windows(at_rate(32, 10), DENSE, stride=1.0)
    assert plan.indices.tolist() == [
        [0, 2, 4, 6],
        [10, 12, 14, 16],
        [20, 22, 24, 26],
        [24, 26, 28, 30],
    ]
    np.testing.assert_allclose(plan.starts, [0, 1, 2, 2.4])
    np.testing.assert_allclose(plan.ends, [0.8, 1.8, 2.8, 3.2])
    np.testing.assert_allclose(plan.centres, [0.4, 1.4, 2.4, 2.8])
    assert plan.duration == pytest.approx(3.2)


@pytest.mark.parametrize("count", [1, 5, 8])
def test_a_video_of_one_clip_is_the_test_view(count: int) -> None:
    plan = plan_windows(at_rate(count, 10), DENSE, stride=1.0)
    assert plan.indices.tolist() == sampling.dense_test(count, 4, 2, 1).tolist()
    assert plan.starts.tolist() == [0]
    assert plan.ends.tolist() == [plan.duration]


def test_times_that_are_not_even_are_followed() -> None:
    # A pause of ten seconds in the middle.
    times = np.concatenate([at_rate(20, 10), 12 + at_rate(20, 10)])
    plan = plan_windows(times, DENSE, stride=1.0)
    # Windows within the pause begin at the frame that is shown then, and are left out as repeats.
    assert plan.indices[:, 0].tolist() == [0, 10, 19, 20, 30, 32]
    np.testing.assert_allclose(plan.starts, times[plan.indices[:, 0]])
    assert plan.duration == pytest.approx(14)


def test_a_rate_of_the_model_counts_its_own_frames() -> None:
    spec = ClipSpec(num_frames=4, frame_interval=2, fps=5, size=32, resize=32)
    plan = plan_windows(at_rate(64, 20), spec, stride=1.0)
    # At 5 frames a second a clip lasts 1.6 seconds, and every fourth frame is taken.
    assert plan.indices[:2].tolist() == [[0, 8, 16, 24], [20, 28, 36, 44]]
    np.testing.assert_allclose(plan.starts, [0, 1, 1.6])
    np.testing.assert_allclose(plan.ends, [1.6, 2.6, 3.2])


def test_uniform_windows_have_their_own_length() -> None:
    plan = plan_windows(at_rate(100, 10), UNIFORM, stride=2.0, window=4.0)
    assert plan.indices[0].tolist() == sampling.uniform_test(40, 4)[0].tolist()
    assert (plan.indices[1] - plan.indices[0]).tolist() == [20] * 4
    np.testing.assert_allclose(plan.starts, [0, 2, 4, 6])
    np.testing.assert_allclose(plan.ends, [4, 6, 8, 10])
    short = plan_windows(at_rate(10, 10), UNIFORM, stride=2.0, window=4.0)
    assert short.indices.tolist() == sampling.uniform_test(10, 4).tolist()


def test_the_first_frame_may_be_repeated() -> None:
    spec = ClipSpec(num_frames=4, frame_interval=2, repeat_first_frame=True, size=32, resize=32)
    assert plan_windows(at_rate(18, 10), spec, 1.0).indices.tolist() == [[0] * 4, [10] * 4]


@pytest.mark.parametrize("most", [2, 7, 40])
def test_a_long_video_may_have_a_larger_stride(most: int) -> None:
    times = at_rate(400, 10)
    plan = plan_windows(times, DENSE, stride=1.0, most=most)
    assert len(plan.indices) == min(most, len(plan_windows(times, DENSE, stride=1.0).indices))
    assert plan.starts[0] == 0
    assert plan.ends[-1] == pytest.approx(40)


@pytest.mark.parametrize(
    ("spec", "stride", "window", "message"),
    [
        (DENSE, 0.0, None, "Expected the stride as seconds above 0 but 0.0 came"),
        (DENSE, float("nan"), None, "Expected the stride as seconds above 0 but nan came"),
        (DENSE, 1.0, 4.0, "because clips of this model have 4 frames at a distance of 2"),
        (UNIFORM, 1.0, None, "such as --window 4"),
        (UNIFORM, 1.0, -1.0, "Expected the window as seconds above 0"),
    ],
)
def test_wrong_lengths_are_refused(
    spec: ClipSpec, stride: float, window: float | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        check_windows(spec, stride, window)
