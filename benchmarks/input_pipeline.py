"""Clips per second of our input pipeline beside PyTorch DataLoaders over torchcodec and decord.

    python benchmarks/input_pipeline.py --torch-python torch-env/bin/python [--videos FOLDER]

All implementations do the same work on the same files: from a file to uint8 batches of clips of
32x224x224. `train` samples 32 frames, every second one, from a random start, resizes the short side
to 256 and a random crop to 224; `test` takes the reference's 4 x 3 views at short side 224. All
resize with OpenCV and have as many threads or worker processes as there are cores. Each
implementation runs in a process of its own, and the measurements are interleaved. The script prints
medians and ratios, and the time that our pipeline spends in each stage. The files are those of a
folder, or eight generated ones: as they are (`downloaded`), as scripts/prepare_dataset.py encodes
them (`prepared`), and as its record shards (`records`).

PyTorch may be installed in another interpreter, which --torch-python names. Packages to install
there: pip install torch==2.13.0 torchcodec==0.13.0 decord opencv-python-headless, and FFmpeg's
libraries.
"""

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from input_worker import CONTENDERS, CORES, FRAMES, INTERVAL, OURS
from worker_process import ROOT, WorkerProcess

from vswin_jax.runtime.script_parser import writable_file

STORES = ("downloaded", "prepared", "records")
VIEWS = ("train", "test")
# Only our pipeline reads record shards; the baselines read the files that the shards are made of.
BASELINE_STORES = {"records": "prepared"}
QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3"}


def write_videos(folder: Path) -> Path:
    """Write eight videos of 10 s, 480x480 pixels and 30 frames per second, in two classes."""
    import av

    from vswin_jax.data.moving_shapes.moving_scene import MOTIONS, make_scene, render

    for index, (name, motion) in enumerate(MOTIONS.items()):
        path = folder / ("slow", "fast")[index % 2] / f"{name}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        scene = make_scene(np.random.default_rng(index), 480)
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=30)
            stream.width = stream.height = 480
            for frame in render(scene, motion, 300):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
    return folder


def write_stores(videos: Path, folder: Path) -> None:
    """Write `folder`/STORE for each of STORES; `videos` has videos, or a folder for each class."""
    train = folder / "downloaded" / "train"
    train.parent.mkdir(parents=True)
    if any(path.is_dir() for path in videos.iterdir()):
        train.symlink_to(videos.resolve())
    else:
        train.mkdir()
        (train / "all").symlink_to(videos.resolve())
    script = ROOT / "scripts" / "prepare_dataset.py"
    for store, output_format in (("prepared", "videos"), ("records", "records")):
        command = [sys.executable, str(script), "--out", str(folder / store), "--to", output_format]
        subprocess.run([*command, "--split", f"train={train}"], check=True)


def compare(
    workers: Sequence[WorkerProcess], folder: Path, stores: Sequence[str], rounds: int
) -> Iterator[dict[str, Any]]:
    """Yield a row for each store, kind of views and implementation; ours is the first worker."""
    for store, views in itertools.product(stores, VIEWS):
        rates: dict[str, list[float]] = {worker.name: [] for worker in workers}
        for _ in range(rounds):
            for worker in workers:
                own = store if worker.name == OURS else BASELINE_STORES.get(store, store)
                rates[worker.name].append(worker.request(f"rate {own} {views} {folder}"))
        ours = statistics.median(rates[OURS])
        for name, values in rates.items():
            median = statistics.median(values)
            yield {
                "store": store,
                "views": views,
                "contender": name,
                "median": median,
                "min": min(values),
                "max": max(values),
                "of_ours": median / ours,
            }


def print_rates(rows: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    """Print a table of the rows as they are measured, and return them."""
    print(f"{'store':11} {'views':6} {'contender':23} per second    min    max of ours")
    printed = []
    for row in rows:
        printed.append(row)
        print(
            f"{row['store']:11} {row['views']:6} {row['contender']:23} {row['median']:10.1f} "
            f"{row['min']:6.1f} {row['max']:6.1f} {row['of_ours']:7.2f}",
            flush=True,
        )
    return printed


def print_stage_times(
    ours: WorkerProcess, folder: Path, stores: Sequence[str]
) -> list[dict[str, Any]]:
    """Print and return the time that one thread of our pipeline spends in each stage."""
    print("\nour pipeline, milliseconds of one thread per clip (train) or video of 12 views (test)")
    rows = []
    for store, views in itertools.product(stores, VIEWS):
        stages = ours.request(f"stages {store} {views} {folder}")
        rows.append({"store": store, "views": views, **stages})
        times = ", ".join(f"{stage} {milliseconds:.1f}" for stage, milliseconds in stages.items())
        print(f"{store:11} {views:6} {times}")
    return rows


def main() -> None:
    """Run the comparison and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each (%(default)s)")
    parser.add_argument("--videos", type=Path, help="a folder of videos, or of class folders")
    parser.add_argument("--stores", nargs="+", choices=STORES, default=STORES)
    parser.add_argument(
        "--torch-python", default=sys.executable, help="Python interpreter that has PyTorch"
    )
    parser.add_argument("--json", type=writable_file, help="file of the results")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory) / "stores"
        write_stores(options.videos or write_videos(Path(directory) / "videos"), folder)
        workers = [
            WorkerProcess(
                name=name,
                python=sys.executable if name == OURS else options.torch_python,
                script=str(Path(__file__).with_name("input_worker.py")),
                environment=QUIET,
            )
            for name in CONTENDERS
        ]
        print(f"{CORES} cores, clips of {FRAMES} frames every {INTERVAL}, {options.rounds} rounds")
        for worker in workers:
            print(f"{worker.name}: {worker.version}")
        rates = print_rates(compare(workers, folder, options.stores, options.rounds))
        stages = print_stage_times(workers[0], folder, options.stores)
        for worker in workers:
            worker.close()
    if options.json:
        content = {"rates": rates, "stages": stages}
        options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
