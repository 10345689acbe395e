"""Clips a second of our input pipeline beside PyTorch DataLoaders over torchcodec and decord.

    python benchmarks/input_pipeline.py --torch-python torch-env/bin/python [--videos FOLDER]

All do the same work on the same files: from a file to uint8 batches of 32 frames of 224x224 pixels;
`train` takes 32 frames, every second one, from a random place, resizes the short side to 256 and a
random crop to 224; `test` takes the reference's 4 x 3 views at short side 224. Everybody resizes
with OpenCV and has as many threads or worker processes as there are cores. Each contender lives in
a process of its own and they take turns; medians and ratios are printed, and where the time of ours
goes. The files are those of a folder, or eight that are generated, as they are
(`downloaded`), as scripts/prepare_dataset.py encodes them (`prepared`), and as its record shards.

PyTorch may live in another interpreter: name it with --torch-python. Install there:
pip install torch==2.13.0 torchcodec==0.13.0 decord opencv-python-headless, and FFmpeg's libraries.
"""

import argparse
import functools
import glob
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from contenders import ROOT, Contender, serve

FRAMES, INTERVAL, RESIZE, SIZE, CLIPS = 32, 2, 256, 224, 4
BATCH = {"train": 8, "test": 2}
SECONDS = 3.0
REPEATS = 2000
CORES = os.cpu_count() or 1
STORES = ("downloaded", "prepared", "records")
VIEWS = ("train", "test")
PLAIN_FILES = ("records", "prepared")
QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3"}

Clips = Iterator[int]  # clips of each batch, when it is ready


# Ours.


def our_batches(store: str, views: str, folder: Path) -> Clips:
    """Our pipeline, as a training or an evaluation uses it."""
    from vswin_jax.data.pipeline import pipeline

    source, spec = _our_source(store, folder), _our_spec()
    if views == "train":
        batches = pipeline.train_batches(
            source, spec, batch_size=BATCH[views], seed=0, processes=CORES
        )
    else:
        batches = pipeline.eval_batches(
            Repeated(source), spec, batch_size=BATCH[views], processes=CORES
        )
    yield from (len(batch["id"]) for batch in batches)


class Repeated:
    """A source many times over, so that an evaluation of it does not end within a measurement."""

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
    from vswin_jax.data.clips.clips import ClipSpec

    return ClipSpec(num_frames=FRAMES, frame_interval=INTERVAL, resize=RESIZE, size=SIZE)


# The others: the same clips, written plainly.


def _resize_short(frame: np.ndarray, short: int) -> np.ndarray:
    import cv2

    height, width = frame.shape[:2]
    if min(height, width) == short:
        return frame
    factor = short / min(height, width)
    return cv2.resize(frame, (int(width * factor + 0.5), int(height * factor + 0.5)))


def _train_views(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Short side to 256, one random crop for all frames, to 224: [1, 32, 224, 224, 3]."""
    import cv2

    frames = [_resize_short(frame, RESIZE) for frame in frames]
    height, width = frames[0].shape[:2]
    area, aspect = rng.uniform(0.08, 1) * height * width, np.exp(rng.uniform(-0.288, 0.288))
    h, w = min(int((area / aspect) ** 0.5), height), min(int((area * aspect) ** 0.5), width)
    top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
    box = np.s_[top : top + h, left : left + w]
    return np.stack([cv2.resize(frame[box], (SIZE, SIZE)) for frame in frames])[None]


def _test_views(frames: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Short side to 224, three crops along the longer side: [12, 32, 224, 224, 3]."""
    resized = np.stack([_resize_short(frame, SIZE) for frame in frames])
    height, width = resized.shape[1:3]
    tops, lefts = np.linspace(0, (height - SIZE, width - SIZE), 3).astype(int).T
    boxes = [np.s_[t : t + SIZE, x : x + SIZE] for t, x in zip(tops, lefts, strict=True)]
    views = [resized[:, box[0], box[1]][places] for box in boxes]
    return np.concatenate(views).reshape(-1, FRAMES, SIZE, SIZE, 3)


def _indices(total: int, views: str, rng: np.random.Generator) -> np.ndarray:
    free = max(total - FRAMES * INTERVAL + 1, 1)
    starts = rng.integers(free, size=1) if views == "train" else (np.arange(CLIPS) + 0.5) * free / 4
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
        indices = _indices(total, self._views, rng)
        wanted, places = np.unique(indices, return_inverse=True)
        frames = read(wanted.tolist())
        if self._views == "train":
            return torch.from_numpy(_train_views(frames, rng))
        return torch.from_numpy(_test_views(frames, places.reshape(indices.shape)))


def _torchcodec(seek_mode: str, path: str) -> tuple[int, Callable]:
    from torchcodec.decoders import VideoDecoder

    video = VideoDecoder(path, seek_mode=seek_mode, num_ffmpeg_threads=1, dimension_order="NHWC")
    return len(video), lambda indices: video.get_frames_at(indices).data.numpy()


def _decord(path: str) -> tuple[int, Callable]:
    import decord

    video = decord.VideoReader(path, num_threads=1)
    return len(video), lambda indices: video.get_batch(indices).asnumpy()


def torch_batches(decode: Callable, store: str, views: str, folder: Path) -> Clips:
    """A DataLoader with a worker process for each core."""
    from torch.utils.data import DataLoader

    # A pattern follows the link to the folder of videos, as Path.rglob does not.
    paths = sorted(glob.glob(f"{folder / store}/train/**/*.*", recursive=True))
    loader = DataLoader(
        PlainDataset(paths, views, decode),
        batch_size=BATCH[views],
        shuffle=views == "train",
        num_workers=CORES,
        prefetch_factor=2,
    )
    while True:
        for batch in loader:
            yield len(batch)


CONTENDERS: dict[str, Callable[[str, str, Path], Clips]] = {
    "vswin_jax": our_batches,
    # "exact" reads the whole file first, so that frame numbers are exact, as ours are.
    "torchcodec exact": partial(torch_batches, partial(_torchcodec, "exact")),
    "torchcodec approximate": partial(torch_batches, partial(_torchcodec, "approximate")),
    "decord": partial(torch_batches, _decord),
}


def _version(name: str) -> str:
    from importlib.metadata import version

    if name == "vswin_jax":
        return f"PyAV {version('av')}, tensorflow {version('tensorflow')}"
    return f"torch {version('torch')}, {name.split()[0]} {version(name.split()[0])}"


def worker(name: str) -> None:
    """Measures `store views folder` tasks: clips (train) or videos (test) a second."""
    running: dict[str, Clips] = {}

    def measure(task: str) -> Any:
        what, store, views, folder = task.split(" ", 3)
        if what == "stages":
            return our_stages(store, views, Path(folder))
        if task not in running:
            # One task at a time has processes, threads and prefetched batches.
            running.clear()
            running[task] = CONTENDERS[name](store, views, Path(folder))
        return _rate(running[task])

    serve(_version(name), measure)


def _rate(batches: Clips) -> float:
    for _ in range(4 * CORES):  # what was prefetched while the others ran
        next(batches)
    clips, start = 0, time.perf_counter()
    while time.perf_counter() - start < SECONDS:
        clips += next(batches)
    return clips / (time.perf_counter() - start)


def our_stages(store: str, views: str, folder: Path) -> dict[str, float]:
    """Milliseconds a clip (or video) that one thread of ours spends in each stage, and in all."""
    from vswin_jax.data.clips import clips, transforms
    from vswin_jax.data.decoding.video_file import VideoFile

    source, spec = _our_source(store, folder), _our_spec()
    spent: Counter[str] = Counter()
    stages = (
        ("open", VideoFile, "_open"),
        ("count frames", VideoFile, "_read_index"),
        ("to RGB", VideoFile, "_upright_rgb"),
        ("resize", transforms, "resize"),
        ("all", clips, "train_clip"),
        ("all", clips, "test_views"),
    )
    with ExitStack() as watched:
        for stage, owner, name in stages:
            watched.enter_context(_watch(spent, stage, owner, name))
        count = 96 if views == "train" else 16
        for index in range(count):
            example = source[index % len(source)]
            if views == "train":
                clips.train_clip(example, spec, np.random.default_rng(index))
            else:
                clips.test_views(example, spec)
    spent["decode and the rest"] = 2 * spent["all"] - spent.total()
    return {stage: 1000 * seconds / count for stage, seconds in spent.items()}


@contextmanager
def _watch(spent: Counter[str], stage: str, owner: Any, name: str) -> Iterator[None]:
    plain = getattr(owner, name)

    @functools.wraps(plain)
    def timed(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return plain(*args, **kwargs)
        finally:
            spent[stage] += time.perf_counter() - start

    setattr(owner, name, timed)
    try:
        yield
    finally:
        setattr(owner, name, plain)


# The files.


def write_files(folder: Path) -> Path:
    """Eight generated videos of 10 s, 480x480 pixels and 30 frames a second, in two classes."""
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


def prepare(videos: Path, folder: Path) -> None:
    """`folder`/STORE for each of STORES; `videos` is a folder of videos or of classes of them."""
    train = folder / "downloaded" / "train"
    train.parent.mkdir(parents=True)
    if any(path.is_dir() for path in videos.iterdir()):
        train.symlink_to(videos.resolve())
    else:
        train.mkdir()
        (train / "all").symlink_to(videos.resolve())
    script = ROOT / "scripts" / "prepare_dataset.py"
    for store, to in (("prepared", "videos"), ("records", "records")):
        command = [sys.executable, str(script), "--out", str(folder / store), "--to", to]
        subprocess.run([*command, "--split", f"train={train}"], check=True)


# The comparison.


def compare(
    contenders: Sequence[Contender], folder: Path, stores: Sequence[str], rounds: int
) -> Iterator[dict[str, Any]]:
    """A row for each store, kind of views and contender."""
    for store, views in itertools.product(stores, VIEWS):
        # Nobody else reads record shards: they are compared on the files that are in them.
        rates: dict[str, list[float]] = {contender.name: [] for contender in contenders}
        for _ in range(rounds):
            for contender in contenders:
                theirs = store if contender is contenders[0] else store.replace(*PLAIN_FILES)
                rates[contender.name].append(contender.measure(f"rate {theirs} {views} {folder}"))
        ours = statistics.median(rates[contenders[0].name])
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


def say_stages(ours: Contender, folder: Path, stores: Sequence[str]) -> list[dict[str, Any]]:
    """Prints and returns where one thread of ours spends its time."""
    print("\nmilliseconds of one thread of ours for a clip (train) or a video of 12 views (test)")
    rows = []
    for store, views in itertools.product(stores, VIEWS):
        stages = ours.measure(f"stages {store} {views} {folder}")
        rows.append({"store": store, "views": views, **stages})
        print(f"{store:11} {views:6}", ", ".join(f"{k} {v:.1f}" for k, v in stages.items()))
    return rows


def main() -> None:
    """Runs the comparison and prints its tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each (3)")
    parser.add_argument("--videos", type=Path, help="a folder of videos, or of one for each class")
    parser.add_argument("--stores", nargs="+", choices=STORES, default=STORES)
    parser.add_argument("--torch-python", default=sys.executable, help="the Python with torch")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    parser.add_argument("--worker", choices=CONTENDERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker(args.worker)
        return
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work) / "stores"
        prepare(args.videos or write_files(Path(work) / "videos"), folder)
        contenders = [
            Contender(
                name, sys.executable if name == "vswin_jax" else args.torch_python, __file__, QUIET
            )
            for name in CONTENDERS
        ]
        print(f"{CORES} cores, clips of {FRAMES} frames every {INTERVAL}, {args.rounds} rounds")
        for contender in contenders:
            print(f"{contender.name}: {contender.version}")
        print(f"{'store':11} {'views':6} {'contender':23} a second    min    max of ours")
        rows = []
        for row in compare(contenders, folder, args.stores, args.rounds):
            rows.append(row)
            print(
                f"{row['store']:11} {row['views']:6} {row['contender']:23} {row['median']:8.1f} "
                f"{row['min']:6.1f} {row['max']:6.1f} {row['of_ours']:7.2f}",
                flush=True,
            )
        stages = say_stages(contenders[0], folder, args.stores)
        for contender in contenders:
            contender.close()
    if args.json:
        args.json.write_text(json.dumps({"rates": rows, "stages": stages}, indent=1) + "\n")


if __name__ == "__main__":
    main()
