import numpy as np
import pytest

from vswin_jax.data.clips.sampling import (
    dense_possible,
    dense_test,
    dense_train,
    resampled_length,
    source_indices,
    uniform_test,
    uniform_train,
)


def test_dense_clips_of_a_kinetics_video() -> None:
    # 250 frames, clips span 64: (250 - 64 + 1) / 4 = 46.75 apart, starting at 23.375:
    # 23.375, 70.125, 116.875, 163.625, rounded down.
    indices = dense_test(250, 32, 2, num_clips=4)
    assert indices.shape == (4, 32)
    assert indices[:, 0].tolist() == [23, 70, 116, 163]
    assert (np.diff(indices, axis=1) == 2).all()


def test_ten_dense_clips() -> None:
    # (300 - 64 + 1) / 10 = 23.7 apart from 11.85 on.
    starts = dense_test(300, 32, 2, num_clips=10)[:, 0]
    assert starts.tolist() == [11, 35, 59, 82, 106, 130, 154, 177, 201, 225]


def test_a_single_dense_clip_is_centred() -> None:
    # (100 - 64 + 1) / 2 = 18.5.
    assert dense_test(100, 32, 2, num_clips=1)[0, [0, -1]].tolist() == [18, 80]


def test_short_videos_start_again() -> None:
    # 50 frames give 0, 2, .. 48 (25 of them); the 26th would be frame 50, which is frame 0 again.
    expected = [*range(0, 50, 2), *range(0, 14, 2)]
    assert dense_test(50, 32, 2, num_clips=4).tolist() == [expected] * 4
    assert dense_train(50, 32, 2, np.random.default_rng(0)).tolist() == expected
    # With an odd length the second pass takes the odd frames: 0 2 4 | 6 % 5 = 1, 3.
    assert dense_test(5, 5, 2, num_clips=1).tolist() == [[0, 2, 4, 1, 3]]


@pytest.mark.parametrize(("total", "starts"), [(1, {0}), (63, {0}), (64, {0}), (66, {0, 1, 2})])
def test_dense_training_clips_start_wherever_they_fit(total: int, starts: set[int]) -> None:
    rng = np.random.default_rng(0)
    drawn = {int(dense_train(total, 32, 2, rng)[0]) for _ in range(100)}
    assert drawn == starts


@pytest.mark.parametrize(
    ("total", "middles"),
    [
        # 9 / 4 = 2.25: borders 0, 2.25, 4.5, 6.75, 9 round to 0, 2, 4 (half to even), 7, 9.
        (10, [1, 3, 5, 8]),
        # 6 / 4 = 1.5: borders 0, 1.5, 3, 4.5, 6 round to 0, 2, 3, 4, 6.
        (7, [1, 2, 3, 5]),
        # 2 / 4 = 0.5: borders 0, 0.5, 1, 1.5, 2 round to 0, 0, 1, 2, 2.
        (3, [0, 0, 1, 2]),
        (1, [0, 0, 0, 0]),
    ],
)
def test_uniform_takes_the_middle_of_each_segment(total: int, middles: list[int]) -> None:
    assert uniform_test(total, 4).tolist() == [middles]


@pytest.mark.parametrize("total", [1, 2, 5, 11, 12, 13, 14, 40])
@pytest.mark.parametrize("interval", [1, 2, 3])
def test_possible_frames_of_dense_training_clips(total: int, interval: int) -> None:
    draws = (dense_train(total, 4, interval, np.random.default_rng(k)) for k in range(400))
    drawn = sorted({index for clip in draws for index in clip.tolist()})
    assert dense_possible(total, 4, interval).tolist() == drawn


def test_uniform_training_draws_from_both_ends_of_each_segment() -> None:
    # The borders of 10 frames in 4 segments are 0, 2, 4, 7, 9, as above.
    rng = np.random.default_rng(0)
    drawn = np.array([uniform_train(10, 4, rng) for _ in range(300)])
    seen = [sorted(set(column.tolist())) for column in drawn.T]
    assert seen == [[0, 1, 2], [2, 3, 4], [4, 5, 6, 7], [7, 8, 9]]


def resampled(times: list[float] | np.ndarray, fps: float) -> list[int]:
    """Return the video's own frame for every frame at `fps`."""
    times = np.asarray(times, np.float64)
    return source_indices(times, fps, np.arange(resampled_length(times, fps))).tolist()


def test_half_the_rate_is_every_other_frame() -> None:
    assert resampled(np.arange(7) / 30, 15) == [0, 2, 4, 6]
    assert resampled(np.arange(300) / 30, 15) == list(range(0, 300, 2))
    # Times in units of 1/15360 s, as in mp4 files, are slightly different floats.
    assert resampled(np.arange(300) * 512 * float(1 / 15360), 15) == list(range(0, 300, 2))


def test_the_same_rate_is_every_frame() -> None:
    for count, fps in ((1, 24), (250, 25), (301, 30000 / 1001)):
        assert resampled(np.arange(count) / fps, fps) == list(range(count))


def test_a_higher_rate_repeats_frames() -> None:
    # One second. At 25 fps frame k is displayed at 40 k ms, and at 12 fps a new frame comes every
    # 83.3 ms: 0 40 80 | 120 160 | 200 240 | 280 320 | 360 400 | 440 480 | 520 560 | ...
    expected = [0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11]
    assert resampled(np.arange(12) / 12, 25) == expected


def test_rates_that_do_not_divide() -> None:
    # 24 fps at 0 100 200 300 400 ms are the frames 0, 2.4, 4.8, 7.2 and 9.6, rounded down; the ten
    # frames end at 417 ms.
    assert resampled(np.arange(10) / 24, 10) == [0, 2, 4, 7, 9]


def test_uneven_times() -> None:
    # Displayed at 0 100 200 ... ms; the durations 40 160 30 670 have the median 100, so the last
    # frame lasts until 1000.
    times = [0, 0.04, 0.2, 0.23, 0.9]
    assert resampled(times, 10) == [0, 1, 2, 3, 3, 3, 3, 3, 3, 4]
    # At 0, 500 ms.
    assert resampled(times, 2) == [0, 3]


def test_times_rounded_to_milliseconds() -> None:
    # 30 fps, rounded: 0 33 67 100 133 167 200. The second frame at 15 fps is at 66.7, before 67.
    times = np.round(np.arange(7) / 30, 3)
    assert times.tolist()[:4] == [0, 0.033, 0.067, 0.1]
    assert resampled(times, 15) == [0, 2, 4, 6]


def test_a_single_frame_is_one_frame_at_any_rate() -> None:
    for fps in (0.1, 12, 240):
        assert resampled([0], fps) == [0]
    # A video that is shorter than one frame at the rate is one frame as well.
    assert resampled(np.arange(5) / 30, 1) == [0]


def test_a_gap_of_years_costs_nothing() -> None:
    """With broken times, the frames at the rate are counted but never listed."""
    times = np.array([0, 1 / 30, 1e9])
    assert resampled_length(times, 30) > 10**10
    assert source_indices(times, 30, np.array([0, 1, 10**9, 3 * 10**10])).tolist() == [0, 1, 1, 2]
