"""Worker of predict_many.py: classifies videos in a process of its own, and replies with seconds.

All contenders take the same 32 frames of the middle of each video, the centre crop, and a Swin-T
with 400 classes and random weights in float32. Each builds its model within the measurement,
because `predict_to_file` does so in every call. Before the first measurement a process classifies a
few videos, so that imports and the compilation, which is kept in files, are not measured.
"""

import argparse
import functools
import glob
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from input_worker import CORES, FRAMES, INTERVAL, _resize_short_side, _torchcodec
from torchvision_import import without_torchvision_operators
from worker_process import serve_tasks

CLASSES = 400
LOADER_BATCH = 4  # of the DataLoader
WARM_UP = 8  # videos: a whole batch of `predict_to_file`
Classify = Callable[[Path, Sequence[str], int], None]


def answers_in_a_file(checkpoint: Path, paths: Sequence[str], size: int) -> None:
    """Classify the videos by `predict_to_file`."""
    from vswin_jax import predict_to_file

    with tempfile.TemporaryDirectory() as folder:
        predict_to_file(paths, checkpoint, Path(folder) / "answers.jsonl")


def plain_loop(checkpoint: Path, paths: Sequence[str], size: int) -> None:
    """Classify one video after another by a `Predictor`."""
    from vswin_jax import Predictor

    predictor = Predictor(checkpoint)
    for path in paths:
        predictor(path)


def middle_frames(total: int) -> np.ndarray:
    """Return the indices [32] of the frames of the clip in the middle of `total` frames."""
    start = max(total - FRAMES * INTERVAL + 1, 0) // 2
    return (start + np.arange(FRAMES) * INTERVAL) % total


def centre_crop(frames: Iterable[np.ndarray], size: int) -> np.ndarray:
    """Resize frames to the short side `size`; return their centre crop [T, size, size, 3]."""
    resized = np.stack([_resize_short_side(frame, size) for frame in frames])
    top, left = ((side - size) // 2 for side in resized.shape[1:3])
    return resized[:, top : top + size, left : left + size]


class MiddleClips:
    """A PyTorch data set of the middle clip of each video, uint8 [32, size, size, 3]."""

    def __init__(self, paths: Sequence[str], size: int) -> None:
        self._paths, self._size = list(paths), size

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Any:
        import torch

        total, read = _torchcodec("exact", self._paths[index])
        return torch.from_numpy(centre_crop(read(middle_frames(total).tolist()), self._size))


def torchvision_model(checkpoint: Path, paths: Sequence[str], size: int) -> None:
    """Classify the clips of a DataLoader by torchvision's Swin-T with weights of its own."""
    import torch
    from torch.utils.data import DataLoader

    with without_torchvision_operators():
        from torchvision.models.video import swin3d_t

    model = swin3d_t(num_classes=CLASSES).eval()
    mean, std = (
        torch.tensor(values).reshape(1, 3, 1, 1, 1)
        for values in ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
    )
    loader = DataLoader(MiddleClips(paths, size), batch_size=LOADER_BATCH, num_workers=CORES)
    with torch.inference_mode():
        for clips in loader:
            video = (clips.permute(0, 4, 1, 2, 3).float() - mean) / std
            model(video).softmax(-1).topk(5)


CONTENDERS: dict[str, Classify] = {
    "predict_to_file": answers_in_a_file,
    "loop over predict": plain_loop,
    "torchvision, torchcodec": torchvision_model,
}


def make_task_handler(name: str, checkpoint: Path, size: int) -> Callable[[str], float]:
    """Return the function that replies to the folder of the videos with the seconds for them."""
    classify = CONTENDERS[name]

    @functools.cache
    def warm_up(paths: tuple[str, ...]) -> None:
        classify(checkpoint, paths, size)

    def handle(task: str) -> float:
        paths = sorted(glob.glob(f"{task}/*.mp4"))
        warm_up(tuple(paths[:WARM_UP]))
        start = time.perf_counter()
        classify(checkpoint, paths, size)
        return time.perf_counter() - start

    return handle


def versions(name: str) -> str:
    """Return the versions of the libraries of a contender."""
    names = ("torch", "torchcodec") if "torch" in name else ("jax",)
    return ", ".join(f"{library} {version(library)}" for library in names)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--worker", required=True)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--size", type=int, required=True)
    options = parser.parse_args()
    handler = make_task_handler(options.worker, options.checkpoint, options.size)
    serve_tasks(versions(options.worker), handler)
