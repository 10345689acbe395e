"""Property test: a drawn video's frames are those that the command `ffmpeg` gives.

The command is a program of the package `imageio-ffmpeg`, independent of the libraries in PyAV.
"""

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from coded_pictures import VIDEOS
from drawn_videos import DrawnVideo, draw, ffmpeg_frames, write

from vswin_jax.data import open_video
from vswin_jax.errors import InputError

imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="the oracle is its `ffmpeg`")
FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
PER_TEST = 25

# `ffmpeg -map 0:V:0` takes the first stream that is no attached picture, not the best one.
OTHER_STREAM = ("thumb_track_first.mov",)


def _difference(path: Path, expected: Sequence[np.ndarray], seed: int) -> str:
    """Return in what a file's frames differ from the expected ones; empty if they are equal."""
    with open_video(path) as video:
        frames = list(video.frames())
        if not video.num_frames == len(frames) == len(expected):
            return f"{video.num_frames} frames, not {len(expected)}"
        # The last frame is held back by decoders until they are drained.
        last = len(expected) - 1
        some = [*random.Random(seed).choices(range(last + 1), k=3), last]
        for index, frame in [*enumerate(frames), *zip(some, video.decode(some), strict=True)]:
            if frame.shape != expected[index].shape:
                return f"frame {index} is {frame.shape}, not {expected[index].shape}"
            if not np.array_equal(frame, expected[index]):
                levels = np.abs(frame.astype(int) - expected[index]).max()
                return f"frame {index} differs by up to {levels} grey levels"
    return ""


def _judge(video: DrawnVideo, path: Path, expected: list[np.ndarray], seed: int) -> str:
    """Return in what a file is not handled like `ffmpeg` handles it; empty if it is."""
    try:
        difference = _difference(path, expected, seed)
    except InputError as error:
        sentence = str(error)
        is_sentence = sentence.endswith(".") and "\n" not in sentence and path.name in sentence
        # Files that are cut short are refused, whatever `ffmpeg` shows of them.
        return "" if is_sentence and (video.kept < 1 or not expected) else sentence
    # The lower part of a last frame that is cut through is undefined.
    return (
        "" if video.kept < 1 and f"frame {len(expected) - 1} differs" in difference else difference
    )


def _check(seeds: Sequence[int], folder: Path) -> None:
    videos = [draw(seed) for seed in seeds]
    paths = [write(video, folder / f"{seed}") for seed, video in zip(seeds, videos, strict=True)]
    expected = ffmpeg_frames(FFMPEG, paths, folder)
    # Most of the files are decodable: the test does not compare nothing with nothing.
    assert sum(map(bool, expected)) > 0.8 * len(seeds)
    differences = {
        f"seed {seed}, {video}": difference
        for seed, video, path, frames in zip(seeds, videos, paths, expected, strict=True)
        if (difference := _judge(video, path, frames, seed))
    }
    assert differences == {}


@pytest.mark.parametrize("first", range(0, 250, PER_TEST))
def test_drawn_videos(first: int, tmp_path: Path) -> None:
    _check(range(first, first + PER_TEST), tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("first", range(250, 2500, PER_TEST))
def test_many_drawn_videos(first: int, tmp_path: Path) -> None:
    _check(range(first, first + PER_TEST), tmp_path)


@pytest.mark.parametrize(
    "path",
    sorted(path for path in VIDEOS.iterdir() if path.name not in OTHER_STREAM),
    ids=lambda path: path.name,
)
def test_files_of_users(path: Path, tmp_path: Path) -> None:
    (expected,) = ffmpeg_frames(FFMPEG, [path], tmp_path)
    assert _judge(DrawnVideo(), path, expected, seed=0) == ""
