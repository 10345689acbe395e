"""Moving shapes: a small synthetic video data set of H.264 mp4 files.

A textured object moves over a textured background that drifts. The eight classes differ only in the
motion of the object (`moving_scene`), so no model can distinguish them by a single frame.
Appearance, start, speeds and background belong to a scene, and each scene is rendered once per
class: the first frames of its eight videos are equal. The training and the test split have
different scenes.
"""

import json
import math
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from vswin_jax.data.moving_shapes.moving_scene import MOTIONS, Scene, make_scene, render
from vswin_jax.errors import InputError
from vswin_jax.runtime.cpu_count import usable_cpus
from vswin_jax.runtime.file_lock import exclusive_lock
from vswin_jax.runtime.lazy_module import LazyModule

# Not needed where the videos exist already.
av = LazyModule("av")
context = LazyModule("av.codec.context")

CLASSES: tuple[str, ...] = tuple(MOTIONS)
FORMAT_VERSION = 1
OPTIONS_FILE = "moving_shapes.json"
SPLITS = ("train", "test")

# Every frame is a key frame of constant quality, so a decoded frame depends on that frame alone.
# With prediction from other frames, or a quality chosen by a frame's use to later ones, the
# artefacts reveal the motion: a probe of single frames then reaches 22 %, and chance is 12.5 %.
ENCODER = {"preset": "veryfast", "tune": "fastdecode", "qp": "22"}


@dataclass(frozen=True)
class MovingShapesOptions:
    """The options that determine every byte of the data set, which stores them as JSON."""

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
    """Write `directory`/{train,test}/CLASS/scene_NNNNN.mp4, eight videos for each scene.

    The same options give the same bytes on the same machine. A finished data set with the same
    options is not written again; the remains of a killed call are removed.

    Args:
      directory: of the data set; missing parents are created.
      train_scenes: scenes of the training split.
      test_scenes: scenes of the test split.
      seed: of the scenes.
      size: side of the square frames in pixels, even and at least 32.
      num_frames: frames of a video.
      fps: frames a second. Speeds are per frame, so only the presentation times depend on it.
      workers: threads; None is one for each usable CPU.
      progress: called with (scenes done, total scenes) after each scene.

    Raises:
      InputError: an option is out of range, or `directory` has other contents.
    """
    options = MovingShapesOptions(
        train_scenes=train_scenes,
        test_scenes=test_scenes,
        seed=seed,
        size=size,
        num_frames=num_frames,
        fps=fps,
    )
    _check_options(options)
    directory = Path(os.path.abspath(directory))
    if not _is_written(directory, options):
        # Two runs may share the directory.
        lock = directory.with_name(f"{directory.name}.lock")
        with exclusive_lock(lock, f"writing '{directory}'", wait_seconds=math.inf):
            if not _is_written(directory, options):
                _write(directory, options, workers or usable_cpus(), progress)


def _write(
    directory: Path,
    options: MovingShapesOptions,
    workers: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    # The directory is complete as soon as it has its final name: files are first written beside it.
    partial = directory.with_name(directory.name + ".partial")
    try:
        if partial.exists():
            shutil.rmtree(partial)
        for split in SPLITS:
            for name in CLASSES:
                (partial / split / name).mkdir(parents=True)
        _write_scenes(partial, options, workers, progress)
        (partial / OPTIONS_FILE).write_text(json.dumps(asdict(options), indent=2) + "\n")
        os.replace(partial, directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def scene_at(options: MovingShapesOptions, split: str, index: int) -> Scene:
    """Return scene `index` of a split, a pure function of the arguments."""
    key = np.random.SeedSequence([options.seed, SPLITS.index(split), index])
    return make_scene(np.random.Generator(np.random.Philox(key)), options.size)


def write_video(path: str | os.PathLike[str], frames: np.ndarray, fps: int) -> None:
    """Write uint8 `[T, H, W, 3]` RGB as H.264 in mp4, with the same bytes every time.

    The encoder has one thread, and the container has neither dates nor library versions.
    """
    with av.open(os.fspath(path), "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(fps), options=ENCODER)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = 1
        stream.codec_context.thread_count = 1
        stream.codec_context.flags |= context.Flags.bitexact
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def _check_options(options: MovingShapesOptions) -> None:
    rules = {
        "train_scenes": options.train_scenes >= 1,
        "test_scenes": options.test_scenes >= 1,
        "seed": options.seed >= 0,
        "size": options.size >= 32 and options.size % 2 == 0,
        "num_frames": options.num_frames >= 2,
        "fps": options.fps >= 1,
    }
    for name, holds in rules.items():
        if not holds:
            raise InputError(
                "moving_shapes takes at least 1 scene a split, a seed from 0 up, an even size from "
                "32 pixels up, at least 2 frames and at least 1 frame a second, "
                f"but {name}={getattr(options, name)} came: change it.",
                [f"but {name}"],
            )


def _is_written(directory: Path, options: MovingShapesOptions) -> bool:
    """Return True if the data set is complete, False if the directory is missing or empty."""
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return False
    found, expected = _read_options(directory), asdict(options)
    differing = [name for name, value in expected.items() if found.get(name) != value]
    if differing:
        shown = ", ".join(f"{name}={found.get(name)} (not {expected[name]})" for name in differing)
        raise InputError(
            f"{directory} holds moving_shapes of other options, {shown}: "
            "name another directory, or remove this one to have it written again.",
            [*differing, "name another directory"],
        )
    return True


def _read_options(directory: Path) -> dict[str, int]:
    try:
        return dict(json.loads((directory / OPTIONS_FILE).read_text()))
    except (OSError, ValueError, TypeError):
        raise InputError(
            f"{directory} exists already and is not a finished moving_shapes data set "
            f"(no readable {OPTIONS_FILE}): name another directory or remove this one."
        ) from None


def _write_scenes(
    directory: Path,
    options: MovingShapesOptions,
    workers: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    scenes = [("train", i) for i in range(options.train_scenes)]
    scenes += [("test", i) for i in range(options.test_scenes)]

    def write(scene: tuple[str, int]) -> None:
        _write_scene(directory, options, *scene)

    with ThreadPoolExecutor(workers) as pool:
        try:
            for done, _ in enumerate(pool.map(write, scenes), 1):
                if progress:
                    progress(done, len(scenes))
        finally:
            # After a signal or a failed scene, the other scenes are cancelled.
            pool.shutdown(cancel_futures=True)


def _write_scene(directory: Path, options: MovingShapesOptions, split: str, index: int) -> None:
    scene = scene_at(options, split, index)
    for name, motion in MOTIONS.items():
        frames = render(scene, motion, options.num_frames)
        write_video(directory / split / name / f"scene_{index:05d}.mp4", frames, options.fps)
