"""Worker of input_pipeline.py: our input pipeline or a PyTorch DataLoader in a process of its own.

All implementations read the same files into uint8 batches of clips of 32x224x224, and decode with
as many threads or worker processes as there are cores.
"""

import argparse
import functools
import glob
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from worker_process import serve_tasks

FRAMES, INTERVAL, RESIZE, SIZE, CLIPS = 32, 2, 256, 224, 4
BATCH_SIZES = {"train": 8, "test": 2}
# One measurement reads batches for this many seconds.
SECONDS = 3.0
# The eight videos are repeated, so that an epoch does not end within a measurement.
REPEATS = 2000
CORES = os.cpu_count() or 1
OURS = "vswin_jax"

BatchSizes = Iterator[int]  # yields the number of clips of a batch when the batch is ready


# Our pipeline.


def our_batches(store: str, views: str, folder: Path) -> BatchSizes:
    """Read batches through our pipeline, as in training or in an evaluation."""
    from vswin_jax.data.pipeline import pipeline

    source, spec = _our_source(store, folder), _our_spec()
    if views == "train":
        batches = pipeline.train_batches(
            source, spec, batch_size=BATCH_SIZES[views], seed=0, processes=CORES
        )
    else:
        batches = pipeline.eval_batches(
            RepeatedSource(source), spec, batch_size=BATCH_SIZES[views], processes=CORES
        )
    yield from (len(batch["id"]) for batch in batches)


class RepeatedSource:
    """A source repeated `REPEATS` times."""

    def __init__(self, source: "Source") -> None:  # noqa: F821
        self._source = source
        self.label_names = source.label_names
        self.multi_label = source.multi_label

    def __len__(self) -> int:
        return REPEATS * len(self._source)

    def __getitem__(self, index: int) -> "Example":  # noqa: F821
        return self._source[index % len(self._source)]


def _our_source(store: str, folder: Path) -> "Source":  # noqa: F821
    from vswin_jax.data.sources.sources import open_source

    path = folder / store
    return open_source(f"{path}:train" if store == "records" else str(path / "train"))


def _our_spec() -> "ClipSpec":  # noqa: F821
    from vswin_jax.data.clips.clip_spec import ClipSpec

    return ClipSpec(num_frames=FRAMES, frame_interval=INTERVAL, resize=RESIZE, size=SIZE)


def our_stage_times(store: str, views: str, folder: Path) -> dict[str, float]:
    """Return the milliseconds per clip (or video) of each stage of our pipeline in one thread."""
    from vswin_jax.data.clips import clips, transforms
    from vswin_jax.data.decoding.video_file import VideoFile

    source, spec = _our_source(store, folder), _our_spec()
    seconds: Counter[str] = Counter()
    stages = (
        ("open", VideoFile, "_open"),
        ("count frames", VideoFile, "_read_index"),
        ("to RGB", VideoFile, "_upright_rgb"),
        ("resize", transforms, "resize"),
        ("all", clips, "train_clip"),
        ("all", clips, "test_views"),
    )
    with ExitStack() as stack:
        for stage, owner, name in stages:
            stack.enter_context(_accumulate_time(seconds, stage, owner, name))
        count = 96 if views == "train" else 16
        for index in range(count):
            example = source[index % len(source)]
            if views == "train":
                clips.train_clip(example, spec, np.random.default_rng(index))
            else:
                clips.test_views(example, spec)
    # The sum of all entries has "all" and the stages within it.
    seconds["decode and the rest"] = 2 * seconds["all"] - seconds.total()
    return {stage: 1000 * total / count for stage, total in seconds.items()}


@contextmanager
def _accumulate_time(seconds: Counter[str], stage: str, owner: Any, name: str) -> Iterator[None]:
    """Add the time of every call of `owner.name` to `seconds[stage]`."""
    original = getattr(owner, name)

    @functools.wraps(original)
    def timed(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return original(*args, **kwargs)
        finally:
            seconds[stage] += time.perf_counter() - start

    setattr(owner, name, timed)
    try:
        yield
    finally:
        setattr(owner, name, original)


# The PyTorch baselines: the same clips, in plain NumPy and OpenCV.


def _resize_short_side(frame: np.ndarray, short_side: int) -> np.ndarray:
    import cv2

    height, width = frame.shape[:2]
    if min(height, width) == short_side:
        return frame
    factor = short_side / min(height, width)
    return cv2.resize(frame, (int(width * factor + 0.5), int(height * factor + 0.5)))


def _train_views(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Resize to short side 256 and one random crop of all frames to 224: [1, 32, 224, 224, 3]."""
    import cv2

    frames = [_resize_short_side(frame, RESIZE) for frame in frames]
    height, width = frames[0].shape[:2]
    area, ratio = rng.uniform(0.08, 1) * height * width, np.exp(rng.uniform(-0.288, 0.288))
    h, w = min(int((area / ratio) ** 0.5), height), min(int((area * ratio) ** 0.5), width)
    top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
    box = np.s_[top : top + h, left : left + w]
    return np.stack([cv2.resize(frame[box], (SIZE, SIZE)) for frame in frames])[None]


def _test_views(frames: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Resize to short side 224 and take three crops of four clips: [12, 32, 224, 224, 3].

    `positions` [4, 32] are the frames of each clip, as indices into `frames`.
    """
    resized = np.stack([_resize_short_side(frame, SIZE) for frame in frames])
    height, width = resized.shape[1:3]
    tops, lefts = np.linspace(0, (height - SIZE, width - SIZE), 3).astype(int).T
    boxes = [np.s_[t : t + SIZE, x : x + SIZE] for t, x in zip(tops, lefts, strict=True)]
    views = [resized[:, box[0], box[1]][positions] for box in boxes]
    return np.concatenate(views).reshape(-1, FRAMES, SIZE, SIZE, 3)


def _frame_indices(total: int, views: str, rng: np.random.Generator) -> np.ndarray:
    """Sample the frames of one clip [1, 32] ("train") or of four clips [4, 32] ("test")."""
    free = max(total - FRAMES * INTERVAL + 1, 1)
    if views == "train":
        starts = rng.integers(free, size=1)
    else:
        starts = (np.arange(CLIPS) + 0.5) * free / CLIPS
    return (starts.astype(int)[:, None] + np.arange(FRAMES) * INTERVAL) % total


class PlainDataset:
    """A PyTorch data set of clips; `decode(path)` gives the frame count and a reader of indices."""

    def __init__(self, paths: Sequence[str], views: str, decode: Callable) -> None:
        self._paths, self._views, self._decode = list(paths) * REPEATS, views, decode

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Any:
        import torch

        rng = np.random.default_rng(index)
        total, read = self._decode(self._paths[index])
        indices = _frame_indices(total, self._views, rng)
        # Clips share frames, and each frame is read once.
        unique, positions = np.unique(indices, return_inverse=True)
        frames = read(unique.tolist())
        if self._views == "train":
            return torch.from_numpy(_train_views(frames, rng))
        return torch.from_numpy(_test_views(frames, positions.reshape(indices.shape)))


def _torchcodec(seek_mode: str, path: str) -> tuple[int, Callable]:
    from torchcodec.decoders import VideoDecoder

    video = VideoDecoder(path, seek_mode=seek_mode, num_ffmpeg_threads=1, dimension_order="NHWC")
    return len(video), lambda indices: video.get_frames_at(indices).data.numpy()


def _decord(path: str) -> tuple[int, Callable]:
    import decord

    video = decord.VideoReader(path, num_threads=1)
    return len(video), lambda indices: video.get_batch(indices).asnumpy()


def torch_batches(decode: Callable, store: str, views: str, folder: Path) -> BatchSizes:
    """Read batches through a DataLoader with a worker process for each core."""
    from torch.utils.data import DataLoader

    # A glob pattern follows the link to the folder of videos; Path.rglob does not.
    paths = sorted(glob.glob(f"{folder / store}/train/**/*.*", recursive=True))
    loader = DataLoader(
        PlainDataset(paths, views, decode),
        batch_size=BATCH_SIZES[views],
        shuffle=views == "train",
        num_workers=CORES,
        prefetch_factor=2,
    )
    while True:
        for batch in loader:
            yield len(batch)


CONTENDERS: dict[str, Callable[[str, str, Path], BatchSizes]] = {
    OURS: our_batches,
    # "exact" reads the whole file first, so that its frame numbers are exact, as in our pipeline.
    "torchcodec exact": functools.partial(torch_batches, functools.partial(_torchcodec, "exact")),
    "torchcodec approximate": functools.partial(
        torch_batches, functools.partial(_torchcodec, "approximate")
    ),
    "decord": functools.partial(torch_batches, _decord),
}


# The worker.


def make_task_handler(name: str) -> Callable[[str], Any]:
    """Return the function that handles the tasks of the driver.

    "rate STORE VIEWS FOLDER" replies with clips ("train") or videos ("test") per second, "stages
    STORE VIEWS FOLDER" with `our_stage_times`.
    """
    running: dict[str, BatchSizes] = {}

    def handle(task: str) -> Any:
        kind, store, views, folder = task.split(" ", 3)
        if kind == "stages":
            return our_stage_times(store, views, Path(folder))
        if task not in running:
            # Only the latest task keeps processes, threads and prefetched batches.
            running.clear()
            running[task] = CONTENDERS[name](store, views, Path(folder))
        return _measure_rate(running[task])

    return handle


def _measure_rate(batches: BatchSizes) -> float:
    for _ in range(4 * CORES):  # skips batches that were prefetched while the others were measured
        next(batches)
    clips, start = 0, time.perf_counter()
    while time.perf_counter() - start < SECONDS:
        clips += next(batches)
    return clips / (time.perf_counter() - start)


def _library_versions(name: str) -> str:
    if name == OURS:
        return f"PyAV {version('av')}, tensorflow {version('tensorflow')}"
    return f"torch {version('torch')}, {name.split()[0]} {version(name.split()[0])}"


def main() -> None:
    """Serve the implementation that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--worker", required=True, choices=CONTENDERS)
    name = parser.parse_args().worker
    serve_tasks(_library_versions(name), make_task_handler(name))


if __name__ == "__main__":
    main()
