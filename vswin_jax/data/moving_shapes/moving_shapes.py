"""Moving shapes: a small video data set that the project writes itself, as H.264 mp4 files.

A textured object moves over a textured background that drifts. The eight classes differ only in how
the object moves (`moving_scene`), so whoever tells them apart has looked at more than one frame.
Appearance, start, speeds and background belong to a scene, and each scene is filmed once per class:
the first frames of its eight videos are the same picture. The scenes of the test split are not
among those of the training split.
"""

import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.codec.context import Flags

from vswin_jax.data.moving_shapes.moving_scene import MOTIONS, Scene, make_scene, render
from vswin_jax.errors import InputError

CLASSES: tuple[str, ...] = tuple(MOTIONS)
FORMAT_VERSION = 1
SETTINGS_FILE = "moving_shapes.json"
SPLITS = ("train", "test")

# Every frame is a key frame of constant quality, and what a frame becomes depends on that frame
# alone. Anything predicted from other frames, or rated by its use to later ones, carries the motion
# in its artefacts: a probe of single decoded frames then reaches 22 % where chance is 12.5 %.
ENCODER = {"preset": "veryfast", "tune": "fastdecode", "qp": "22"}


@dataclass(frozen=True)
class Settings:
    """What determines every byte of the data set; kept beside it as JSON."""

    train_scenes: int
    test_scenes: int
    seed: int
    size: int
    num_frames: int
    fps: int
    format_version: int = FORMAT_VERSION


def write_moving_shapes(
    directory: str | os.PathLike[str],
    *,
    train_scenes: int = 300,
    test_scenes: int = 40,
    seed: int = 0,
    size: int = 64,
    num_frames: int = 24,
    fps: int = 12,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Writes `directory`/{train,test}/CLASS/scene_NNNNN.mp4, eight videos a scene.

    The same settings give the same bytes on the same machine. A directory that is already there
    with these settings is left as it is; what a killed call left behind is removed.

    Args:
      directory: where the data set goes; its parents are made.
      train_scenes: scenes of the training split.
      test_scenes: scenes of the test split.
      seed: another seed gives other scenes.
      size: side of the square pictures in pixels, even and at least 32.
      num_frames: frames of a video.
      fps: frames a second; speeds are per frame, so this changes the time stamps only.
      workers: threads; by default one for each core.
      progress: called with (scenes done, scenes in all) after each scene.

    Raises:
      InputError: a setting is out of range, or `directory` holds something else.
    """
    settings = Settings(train_scenes, test_scenes, seed, size, num_frames, fps)
    _check(settings)
    directory = Path(os.path.abspath(directory))
    if _is_written(directory, settings):
        return
    partial = directory.with_name(directory.name + ".partial")
    try:
        if partial.exists():
            shutil.rmtree(partial)
        for split in SPLITS:
            for name in CLASSES:
                (partial / split / name).mkdir(parents=True)
        _write_scenes(partial, settings, workers or os.cpu_count() or 1, progress)
        (partial / SETTINGS_FILE).write_text(json.dumps(asdict(settings), indent=2) + "\n")
        os.replace(partial, directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def scene_at(settings: Settings, split: str, index: int) -> Scene:
    """The scene number `index` of a split: a pure function of its arguments."""
    key = np.random.SeedSequence([settings.seed, SPLITS.index(split), index])
    return make_scene(np.random.Generator(np.random.Philox(key)), settings.size)


def write_video(path: str | os.PathLike[str], frames: np.ndarray, fps: int) -> None:
    """Writes uint8 `[T, H, W, 3]` RGB as H.264 in mp4, the same bytes each time.

    One thread, and neither dates nor library versions in the container.
    """
    with av.open(os.fspath(path), "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(fps), options=ENCODER)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = 1
        stream.codec_context.thread_count = 1
        stream.codec_context.flags |= Flags.bitexact
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def _check(settings: Settings) -> None:
    rules = {
        "train_scenes": settings.train_scenes >= 1,
        "test_scenes": settings.test_scenes >= 1,
        "seed": settings.seed >= 0,
        "size": settings.size >= 32 and settings.size % 2 == 0,
        "num_frames": settings.num_frames >= 2,
        "fps": settings.fps >= 1,
    }
    for name, holds in rules.items():
        if not holds:
            raise InputError(
                "moving_shapes takes at least 1 scene a split, a seed from 0 up, an even size from "
                "32 pixels up, at least 2 frames and at least 1 frame a second, "
                f"but {name}={getattr(settings, name)} came: change it."
            )


def _is_written(directory: Path, settings: Settings) -> bool:
    """Whether this very data set is there; an error when something else is."""
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return False
    found, wanted = _read_settings(directory), asdict(settings)
    differing = [f"{k}={found.get(k)} (not {v})" for k, v in wanted.items() if found.get(k) != v]
    if differing:
        raise InputError(
            f"{directory} holds moving_shapes of other settings, {', '.join(differing)}: "
            "name another directory, or remove this one to have it written again."
        )
    return True


def _read_settings(directory: Path) -> dict[str, int]:
    try:
        return dict(json.loads((directory / SETTINGS_FILE).read_text()))
    except (OSError, ValueError, TypeError):
        raise InputError(
            f"{directory} is there already and is not a finished moving_shapes data set "
            f"(no readable {SETTINGS_FILE}): name another directory or remove this one."
        ) from None


def _write_scenes(
    directory: Path, settings: Settings, workers: int, progress: Callable[[int, int], None] | None
) -> None:
    scenes = [("train", i) for i in range(settings.train_scenes)]
    scenes += [("test", i) for i in range(settings.test_scenes)]

    def write(scene: tuple[str, int]) -> None:
        _write_scene(directory, settings, *scene)

    with ThreadPoolExecutor(workers) as pool:
        try:
            for done, _ in enumerate(pool.map(write, scenes), 1):
                if progress:
                    progress(done, len(scenes))
        finally:
            # After a signal, or a scene that failed, nobody waits for the others.
            pool.shutdown(cancel_futures=True)


def _write_scene(directory: Path, settings: Settings, split: str, index: int) -> None:
    scene = scene_at(settings, split, index)
    for name, motion in MOTIONS.items():
        frames = render(scene, motion, settings.num_frames)
        write_video(directory / split / name / f"scene_{index:05d}.mp4", frames, settings.fps)
