"""Clips per second of classifying many videos on a CPU: a file of answers, a loop, and PyTorch.

    python benchmarks/predict_many.py --torch-python torch-env/bin/python --json predict_many.json

Every contender classifies the same H.264 videos (340x256, 10 seconds, 30 frames a second) by the
middle clip of 32x224x224 with a Swin-T in float32, in a process of its own, one after another in
each round: `predict_to_file`, a plain loop over a `Predictor`, and torchvision's `swin3d_t` with a
DataLoader over torchcodec. Building the model, decoding, computing and writing are in the time;
imports and the first compilation are not. The file of --json is written after every round.
--videos 8 --rounds 1 --size 112 tries the script.
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from json_files import write_json
from startup_worker import write_checkpoint
from worker_process import WorkerProcess

from vswin_jax.data.moving_shapes.moving_scene import MOTIONS, make_scene, render
from vswin_jax.runtime.cpu_count import usable_cpus
from vswin_jax.runtime.script_parser import positive_int, script_parser, writable_file

CONTENDERS = ("predict_to_file", "loop over predict", "torchvision, torchcodec")
FRAMES, RATE, SECONDS, WIDTH, HEIGHT = 32, 30, 10, 340, 256


def write_videos(folder: Path, count: int) -> None:
    """Write so many videos, eight different ones again and again."""
    folder.mkdir()
    for index in range(count):
        path = folder / f"{index:04d}.mp4"
        if index >= len(MOTIONS):
            shutil.copy(folder / f"{index % len(MOTIONS):04d}.mp4", path)
            continue
        scene = make_scene(np.random.default_rng(index), 64)
        frames = render(scene, list(MOTIONS.values())[index], RATE * SECONDS)
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=Fraction(RATE))
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
            for frame in frames:
                large = cv2.resize(frame, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(large, format="rgb24")))
            container.mux(stream.encode())


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the rates and write the file of --json."""
    parser = script_parser(__doc__)
    add = parser.add_argument
    add("--torch-python", default=sys.executable, metavar="PATH", help="with torch and torchcodec")
    add("--videos", type=positive_int, default=200, help="videos of a round (200)")
    add("--size", type=positive_int, default=224, help="height and width of the clips (224)")
    add("--rounds", type=positive_int, default=3, help="measurements of each (3)")
    add("--json", type=writable_file, metavar="FILE")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder, checkpoint = Path(name) / "videos", Path(name) / "swin_tiny"
        write_videos(folder, options.videos)
        write_checkpoint(checkpoint, FRAMES, options.size)
        workers = [start_worker(contender, options, checkpoint) for contender in CONTENDERS]
        measure(workers, folder, options)
        for worker in workers:
            worker.close()
    return 0


def start_worker(contender: str, options: argparse.Namespace, checkpoint: Path) -> WorkerProcess:
    """Start the process of a contender."""
    return WorkerProcess(
        contender,
        options.torch_python if "torch" in contender else sys.executable,
        str(Path(__file__).with_name("predict_many_worker.py")),
        arguments=["--checkpoint", str(checkpoint), "--size", str(options.size)],
    )


def measure(workers: Sequence[WorkerProcess], folder: Path, options: argparse.Namespace) -> None:
    """Measure all contenders in each round, print their rates, and write the file after it."""
    rates: dict[str, list[float]] = {worker.name: [] for worker in workers}
    settings = {
        "cpus": usable_cpus(),
        "videos": options.videos,
        "clip": [FRAMES, options.size, options.size],
        "versions": {worker.name: worker.version for worker in workers},
    }
    for _ in range(options.rounds):
        for worker in workers:
            rate = options.videos / worker.request(str(folder))
            rates[worker.name].append(round(rate, 4))
            print(f"{worker.name:24} {rate:6.3f} clips/s", flush=True)
        write_json(options.json, {**settings, **summarize(rates)})
    print(json.dumps(summarize(rates)["ratio_of_predict_to_file"], indent=1))


def summarize(rates: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Return the rates, and how many times as fast as each contender `predict_to_file` is.

    The ratio is the median of those of the rounds, because the speed of the machine drifts.
    """
    ours = rates[CONTENDERS[0]]
    ratios = {
        contender: statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
        for contender, theirs in rates.items()
    }
    return {
        "clips_per_s": {contender: [*values] for contender, values in rates.items()},
        "ratio_of_predict_to_file": {name: round(ratio, 3) for name, ratio in ratios.items()},
    }


if __name__ == "__main__":
    sys.exit(main())
