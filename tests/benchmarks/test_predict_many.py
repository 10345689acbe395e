"""The benchmark of many videos: equal clips of all contenders, and the ratios."""

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from vswin_jax.data.clips import clips
from vswin_jax.data.clips.clip_spec import ClipSpec
from vswin_jax.data.decoding.decode import open_video
from vswin_jax.data.example import Example

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SIZE = 48


@pytest.fixture
def predict_many(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("predict_many")


@pytest.mark.parametrize("seconds", [1, 3])
def test_all_contenders_classify_the_same_clip(
    predict_many: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: int
) -> None:
    """Videos shorter than the clip of 64 frames start again; 90 frames have 26 to spare."""
    for name, value in {"SECONDS": seconds, "WIDTH": 100, "HEIGHT": 64}.items():
        monkeypatch.setattr(predict_many, name, value)
    worker = importlib.import_module("predict_many_worker")
    predict_many.write_videos(tmp_path / "videos", 1)
    path = str(tmp_path / "videos" / "0000.mp4")
    frames_of_clip = {"num_frames": worker.FRAMES, "frame_interval": worker.INTERVAL}
    spec = ClipSpec(**frames_of_clip, size=SIZE, eval_resize=SIZE, num_clips=1, num_crops=1)
    (ours,) = clips.test_views(Example(path, 0, 0, path), spec)
    with open_video(path) as video:
        assert video.num_frames == seconds * predict_many.RATE
        frames = video.decode(np.arange(video.num_frames))
    theirs = worker.centre_crop(frames[worker.middle_frames(len(frames))], SIZE)
    np.testing.assert_array_equal(theirs, ours)


def test_further_videos_are_copies_of_the_first_eight(
    predict_many: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predict_many, "RATE", 2)
    monkeypatch.setattr(predict_many, "SECONDS", 1)
    predict_many.write_videos(tmp_path / "videos", 10)
    content = [path.read_bytes() for path in sorted((tmp_path / "videos").iterdir())]
    assert len(set(content[:8])) == 8
    assert content[8:] == content[:2]


def test_ratios_are_medians_over_the_rounds(predict_many: ModuleType) -> None:
    """Rates of a machine that is half as fast in one round have the same ratios in it."""
    file, loop, torchvision = predict_many.CONTENDERS
    rates = {file: [1.0, 0.5, 1.2], loop: [0.8, 0.4, 0.8], torchvision: [0.5, 0.25, 0.3]}
    assert [*predict_many.summarize(rates)["ratio_of_predict_to_file"].values()] == [1, 1.25, 2]
