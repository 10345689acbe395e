import numpy as np
import pytest

from vswin_jax.data.sampling import dense_test, dense_train, uniform_test, uniform_train


def test_dense_clips_of_a_kinetics_video() -> None:
    # 250 frames, clips span 64: (250 - 64 + 1) / 4 = 46.75 apart, starting at 23.375:
    # 23.375, 70.125, 116.875, 163.625, cut to whole frames.
    indices = dense_test(250, 32, 2, clips=4)
    assert indices.shape == (4, 32)
    assert indices[:, 0].tolist() == [23, 70, 116, 163]
    assert (np.diff(indices, axis=1) == 2).all()


def test_ten_dense_clips() -> None:
    # (300 - 64 + 1) / 10 = 23.7 apart from 11.85 on.
    starts = dense_test(300, 32, 2, clips=10)[:, 0]
    assert starts.tolist() == [11, 35, 59, 82, 106, 130, 154, 177, 201, 225]


def test_a_single_dense_clip_is_centred() -> None:
    # (100 - 64 + 1) / 2 = 18.5.
    assert dense_test(100, 32, 2, clips=1)[0, [0, -1]].tolist() == [18, 80]


def test_short_videos_start_again() -> None:
    # 50 frames give 0, 2, .. 48 (25 of them); the 26th would be frame 50, which is frame 0 again.
    expected = [*range(0, 50, 2), *range(0, 14, 2)]
    assert dense_test(50, 32, 2, clips=4).tolist() == [expected] * 4
    assert dense_train(50, 32, 2, np.random.default_rng(0)).tolist() == expected
    # An odd length lands on the odd frames the second time: 0 2 4 | 6 % 5 = 1, 3.
    assert dense_test(5, 5, 2, clips=1).tolist() == [[0, 2, 4, 1, 3]]


@pytest.mark.parametrize(("total", "starts"), [(1, {0}), (63, {0}), (64, {0}), (66, {0, 1, 2})])
def test_dense_training_starts_everywhere_the_clip_fits(total: int, starts: set[int]) -> None:
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


def test_uniform_training_draws_from_both_ends_of_each_segment() -> None:
    # The borders of 10 frames in 4 segments, from above: 0, 2, 4, 7, 9.
    rng = np.random.default_rng(0)
    drawn = np.array([uniform_train(10, 4, rng) for _ in range(300)])
    seen = [sorted(set(column.tolist())) for column in drawn.T]
    assert seen == [[0, 1, 2], [2, 3, 4], [4, 5, 6, 7], [7, 8, 9]]
