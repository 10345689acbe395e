"""Worker of predict_many.py: classifies videos in a process of its own, and replies with seconds.

All contenders take the same 32 frames of the middle of each video, the centre crop, and a Swin-T
with 400 classes and random weights in float32. They are warm: the first video is classified twice
before the measurement.
"""

import argparse
import functools
import glob
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from input_worker import CORES, FRAMES, INTERVAL, SIZE, _resize_short_side, _torchcodec
from torchvision_import import without_torchvision_operators
from worker_process import serve_tasks

CLASSES = 400
BATCH_SIZE = 4  # of the DataLoader and of the file of answers
Classify = Callable[[Sequence[str]], None]


def answers_in_a_file(checkpoint: Path) -> Classify:
    """Return a function that calls `predict_to_file`."""
    from vswin_jax import predict_to_file

    def classify(paths: Sequence[str]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "answers.jsonl"
            predict_to_file(paths, checkpoint, out, batch_size=BATCH_SIZE)

    return classify


def plain_loop(checkpoint: Path) -> Classify:
    """Return a function that calls a `Predictor` for one video after another."""
    from vswin_jax import Predictor

    predictor = Predictor(checkpoint)

    def classify(paths: Sequence[str]) -> None:
        for path in paths:
            predictor.predict(path)

    return classify


class MiddleClips:
    """A PyTorch data set of the middle clip of each video, uint8 [32, 224, 224, 3]."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = list(paths)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Any:
        import torch

        total, read = _torchcodec("exact", self._paths[index])
        start = max(total - FRAMES * INTERVAL + 1, 1) // 2
        frames = read(((start + np.arange(FRAMES) * INTERVAL) % total).tolist())
        resized = np.stack([_resize_short_side(frame, SIZE) for frame in frames])
        top, left = ((side - SIZE) // 2 for side in resized.shape[1:3])
        return torch.from_numpy(resized[:, top : top + SIZE, left : left + SIZE])


def torchvision_model(_: Path) -> Classify:
    """Return a function that runs torchvision's Swin-T on the clips of a DataLoader."""
    import torch
    from torch.utils.data import DataLoader

    with without_torchvision_operators():
        from torchvision.models.video import swin3d_t

    model = swin3d_t(num_classes=CLASSES).eval()
    mean, std = (
        torch.tensor(values).reshape(1, 3, 1, 1, 1)
        for values in ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
    )

    @torch.inference_mode()
    def classify(paths: Sequence[str]) -> None:
        loader = DataLoader(MiddleClips(paths), batch_size=BATCH_SIZE, num_workers=CORES)
        for clips in loader:
            video = (clips.permute(0, 4, 1, 2, 3).float() - mean) / std
            model(video).softmax(-1).topk(5)

    return classify


CONTENDERS: dict[str, Callable[[Path], Classify]] = {
    "predict_to_file": answers_in_a_file,
    "loop over predict": plain_loop,
    "torchvision, torchcodec": torchvision_model,
}


def make_task_handler(name: str, checkpoint: Path) -> Callable[[str], float]:
    """Return the function that replies to the folder of the videos with the seconds for them."""
    loaded = functools.cache(lambda: CONTENDERS[name](checkpoint))

    def handle(task: str) -> float:
        paths = sorted(glob.glob(f"{task}/*.mp4"))
        classify = loaded()
        classify(paths[:1])
        classify(paths[:1])
        start = time.perf_counter()
        classify(paths)
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
    options = parser.parse_args()
    serve_tasks(versions(options.worker), make_task_handler(options.worker, options.checkpoint))
