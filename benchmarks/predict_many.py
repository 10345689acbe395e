"""Clips per second of classifying many videos on a CPU: a file of answers, a loop, and PyTorch.

    python benchmarks/predict_many.py --torch-python torch-env/bin/python --json predict_many.json

Every contender classifies the same H.264 videos (340x256, 10 seconds, 30 frames a second) by the
middle clip of 32x224x224 with a Swin-T in float32, in a process of its own, one after another in
each round: `predict_to_file`, a plain loop over a `Predictor`, and torchvision's `swin3d_t` with a
DataLoader over torchcodec. Decoding, computing and writing are in the time; loading the model and
its first compilation are not.
"""

import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

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
    add("--rounds", type=positive_int, default=3, help="measurements of each (3)")
    add("--json", type=writable_file, metavar="FILE")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "videos"
        write_videos(folder, options.videos)
        write_checkpoint(Path(name) / "swin_tiny", FRAMES)
        workers = [
            WorkerProcess(
                contender,
                options.torch_python if "torch" in contender else sys.executable,
                str(Path(__file__).with_name("predict_many_worker.py")),
                arguments=["--checkpoint", str(Path(name) / "swin_tiny")],
            )
            for contender in CONTENDERS
        ]
        rates: dict[str, list[float]] = {contender: [] for contender in CONTENDERS}
        for _ in range(options.rounds):
            for worker in workers:
                rate = options.videos / worker.request(str(folder))
                rates[worker.name].append(round(rate, 4))
                print(f"{worker.name:24} {rate:6.3f} clips/s", flush=True)
    medians = {contender: statistics.median(values) for contender, values in rates.items()}
    ours = medians[CONTENDERS[0]]
    results = {
        "cpus": usable_cpus(),
        "videos": options.videos,
        "versions": {worker.name: worker.version for worker in workers},
        "clips_per_s": rates,
        "ratio_of_predict_to_file": {
            contender: round(ours / median, 3) for contender, median in medians.items()
        },
    }
    print(json.dumps(results["ratio_of_predict_to_file"], indent=1))
    write_json(options.json, results)
    for worker in workers:
        worker.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
