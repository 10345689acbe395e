"""The benchmark of long videos: repeated packets, known classes, and the comparison of segments."""

import importlib
import itertools
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from vswin_jax.data.decoding.decode import open_video
from vswin_jax.inference import Segment, Timeline

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def long_video(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("long_video")


def test_a_video_is_repeated_with_ascending_times(
    long_video: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(long_video, "MINUTE", 12)
    monkeypatch.setattr(long_video, "WIDTH", 64)
    monkeypatch.setattr(long_video, "HEIGHT", 32)
    long_video.write_minute(tmp_path / "a.mp4")
    long_video.repeat_video(tmp_path / "b.mp4", tmp_path / "a.mp4", 3)
    with open_video(tmp_path / "a.mp4") as once, open_video(tmp_path / "b.mp4") as thrice:
        assert (once.num_frames, thrice.num_frames) == (12, 36)
        np.testing.assert_allclose(thrice.times[12:24] - thrice.times[:12], 60, atol=1e-3)
        np.testing.assert_array_equal(thrice.decode([25]), once.decode([1]))


def test_segments_are_compared_with_the_scenes(long_video: ModuleType) -> None:
    segments = (Segment(0.0, 4.5, "grow", 0.9), Segment(4.5, 6.0, "shrink", 0.8))
    empty = np.zeros((0, 2), np.float32)
    found = Timeline("a.mp4", 8.0, empty[:, 0], empty[:, 0], empty, ("grow", "shrink"), segments)
    truth = [(0.0, 4.0, "grow"), (4.0, 8.0, "shrink")]
    assert long_video.right_share(found, truth) == pytest.approx((4 + 1.5) / 8)
    assert long_video.longest_within(found, *truth[1]) == segments[1]
    assert long_video.longest_within(found, 6.5, 8.0, "grow") is None


def test_scenes_follow_one_another_without_a_gap(long_video: ModuleType, tmp_path: Path) -> None:
    truth = long_video.write_joined(tmp_path / "a.mp4", 3)
    assert [start for start, _, _ in truth[1:]] == [end for _, end, _ in truth[:-1]]
    assert all(first[2] != second[2] for first, second in itertools.pairwise(truth))
    with open_video(tmp_path / "a.mp4") as video:
        assert video.num_frames == round(truth[-1][1] * long_video.SLOW_RATE)
