"""Whether the input pipeline's memory stays flat: resident memory and open files over many batches.

    python benchmarks/input_memory.py [--batches 5000] [--bad 0.05] [--json out.json]

Reads training batches through the pipeline of a run, over H.264 files that it writes itself, some
of them bad (truncated, of an unknown codec, empty, missing). Every tenth of the way all the good
videos are evaluated once, as a run does. Linux only: it reads /proc.
"""

import argparse
import itertools
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from vswin_jax.data import ClipSpec, open_source
from vswin_jax.data.moving_shapes.moving_shapes import write_moving_shapes
from vswin_jax.data.pipeline.bad_videos import BadVideos
from vswin_jax.data.pipeline.clip_processes import shared_processes
from vswin_jax.data.sources.sources import VideoSource
from vswin_jax.main import load_pipeline

LOOKS = 10
CLASSES = 8


@dataclass(frozen=True)
class Look:
    """What the process, and those that decode for it, hold after some batches."""

    batch: int
    resident_mb: float
    decoders_mb: float
    open_files: int
    bad_reads: int
    clips_per_second: float

    def __str__(self) -> str:
        return (
            f"batch {self.batch:>6}: {self.resident_mb:7.1f} MB resident and "
            f"{self.decoders_mb:.1f} MB in decoding processes, {self.open_files} open files, "
            f"{self.bad_reads} bad reads, {self.clips_per_second:.0f} clips/s"
        )


def write_files(directory: Path, options: argparse.Namespace) -> tuple[VideoSource, VideoSource]:
    """Training videos, a share of them bad, and good ones to evaluate."""
    scenes = max(1, options.videos // CLASSES)
    write_moving_shapes(
        directory / "set",
        train_scenes=scenes,
        test_scenes=1,
        size=options.side,
        num_frames=options.video_frames,
    )
    training, held_out = (open_source(directory / "set" / name) for name in ("train", "test"))
    count = round(options.bad * len(training))
    for place in range(count):
        spoil(Path(str(training[place * len(training) // count].video)), place % 4)
    return training, held_out


def spoil(path: Path, kind: int) -> None:
    """Makes a bad file of a good one, in one of four ways."""
    whole = path.read_bytes()
    if kind == 3:
        path.unlink()
        return
    path.write_bytes((whole[: len(whole) // 2], whole.replace(b"avc1", b"zzzz"), b"")[kind])


def resident_mb(pid: int | str = "self") -> float:
    """The memory of a process that is in RAM."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def decoders_mb(processes: int) -> float:
    """The memory of all decoding processes together; batches count in each that has mapped them."""
    pids = shared_processes(processes).pids if processes else ()
    return sum(map(resident_mb, pids))


def measure(options: argparse.Namespace, directory: Path) -> Iterator[Look]:
    """One look after each tenth of the batches."""
    pipeline = load_pipeline()
    training, held_out = write_files(directory, options)
    spec = ClipSpec(
        num_frames=options.frames,
        frame_interval=1,
        resize=options.size + options.size // 8,
        size=options.size,
        clips=1,
        crops=1,
        rand_augment_n=options.rand_augment,
    )
    reading = {
        "batch_size": options.batch_size,
        "threads": options.threads or pipeline.AUTOTUNE,
        "processes": options.processes,
    }
    bad_videos = BadVideos(directory / "bad_videos.csv", 1.0)
    batches = pipeline.train_batches(training, spec, seed=0, bad_videos=bad_videos, **reading)
    every = max(1, options.batches // LOOKS)
    for done in range(every, options.batches + 1, every):
        start = time.perf_counter()
        for _ in itertools.islice(batches, every):
            pass
        rate = every * options.batch_size / (time.perf_counter() - start)
        for _ in pipeline.eval_batches(held_out, spec, **reading):
            pass
        open_files = len(os.listdir("/proc/self/fd"))
        memory = (round(resident_mb(), 1), round(decoders_mb(options.processes), 1))
        yield Look(done, *memory, open_files, bad_videos.bad, round(rate, 1))


def main(arguments: Sequence[str]) -> None:
    """Prints a line for every look, and the growth from the first to the last."""
    options = _parser().parse_args(arguments)
    if not sys.platform.startswith("linux"):
        sys.exit("error: this reads /proc, which only Linux has: run it there.")
    logging.getLogger("vswin_jax").setLevel(logging.ERROR)  # every bad video would have a line
    looks = []
    with tempfile.TemporaryDirectory() as directory:
        for look in measure(options, Path(directory)):
            looks.append(look)
            print(look, flush=True)
    first, last = looks[0], looks[-1]
    print(
        f"from batch {first.batch} to {last.batch}: "
        f"{last.resident_mb - first.resident_mb:+.1f} MB, in the decoding processes "
        f"{last.decoders_mb - first.decoders_mb:+.1f} MB, "
        f"{last.open_files - first.open_files:+d} open files"
    )
    if options.json:
        options.json.write_text(json.dumps([asdict(look) for look in looks], indent=2) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    numbers = {
        "batches": (5000, "how many are read"),
        "batch-size": (8, "clips in each"),
        "frames": (8, "of a clip"),
        "size": (56, "pixels of a clip's side"),
        "videos": (400, "training videos"),
        "side": (64, "pixels of a video's side"),
        "video-frames": (24, "of a video"),
        "rand-augment": (2, "operations on a clip"),
        "processes": (os.cpu_count() or 1, "that decode; 0: the threads do"),
        "threads": (0, "that decode or keep the processes busy; 0: chosen"),
    }
    for name, (value, text) in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=value, metavar="N", help=text)
    parser.add_argument("--bad", type=float, default=0.05, metavar="SHARE", help="of bad files")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    return parser


if __name__ == "__main__":
    main(sys.argv[1:])
