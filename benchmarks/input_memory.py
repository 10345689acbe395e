"""Memory of the input pipeline over many batches: resident memory and open files.

    python benchmarks/input_memory.py [--batches 5000] [--bad 0.05] [--json out.json]

The script writes H.264 files, makes some of them unreadable (truncated, unknown codec, empty,
missing), and reads training batches through the pipeline of a training run. After every tenth of
the batches it reads all readable videos once, as for an evaluation. It needs Linux (/proc).
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
from vswin_jax.data.pipeline import pipeline
from vswin_jax.data.pipeline.bad_videos import BadVideos
from vswin_jax.data.pipeline.clip_processes import shared_processes
from vswin_jax.data.sources.sources import VideoSource
from vswin_jax.runtime.cpu_count import usable_cpus
from vswin_jax.runtime.script_parser import writable_file

SAMPLES = 10
CLASSES = 8


@dataclass(frozen=True)
class MemorySample:
    """Memory and open files of this process and its decoding processes after `batch` batches."""

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
    """Write training videos, a share of them unreadable, and readable videos to evaluate."""
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
    for number in range(count):
        damage_file(Path(str(training[number * len(training) // count].video)), number % 4)
    return training, held_out


def damage_file(path: Path, kind: int) -> None:
    """Truncate the file (`kind` 0), change its codec (1), empty it (2) or delete it (3)."""
    content = path.read_bytes()
    if kind == 3:
        path.unlink()
        return
    damaged = (content[: len(content) // 2], content.replace(b"avc1", b"zzzz"), b"")
    path.write_bytes(damaged[kind])


def resident_mb(pid: int | str = "self") -> float:
    """Return the resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def decoders_mb(processes: int) -> float:
    """Return the sum over the decoding processes; a shared batch counts in each that maps it."""
    pids = shared_processes(processes).pids if processes else ()
    return sum(map(resident_mb, pids))


def measure(options: argparse.Namespace, directory: Path) -> Iterator[MemorySample]:
    """Yield a sample after each tenth of the batches."""
    training, held_out = write_files(directory, options)
    spec = ClipSpec(
        num_frames=options.frames,
        frame_interval=1,
        resize=options.size + options.size // 8,
        size=options.size,
        num_clips=1,
        num_crops=1,
        rand_augment_n=options.rand_augment,
    )
    reading = {
        "batch_size": options.batch_size,
        "threads": options.threads or pipeline.AUTOTUNE,
        "processes": options.processes,
    }
    bad_videos = BadVideos(directory / "bad_videos.csv", 1.0)
    batches = pipeline.train_batches(training, spec, seed=0, bad_videos=bad_videos, **reading)
    every = max(1, options.batches // SAMPLES)
    for done in range(every, options.batches + 1, every):
        start = time.perf_counter()
        for _ in itertools.islice(batches, every):
            pass
        rate = every * options.batch_size / (time.perf_counter() - start)
        for _ in pipeline.eval_batches(held_out, spec, **reading):
            pass
        open_files = len(os.listdir("/proc/self/fd"))
        yield MemorySample(
            batch=done,
            resident_mb=round(resident_mb(), 1),
            decoders_mb=round(decoders_mb(options.processes), 1),
            open_files=open_files,
            bad_reads=bad_videos.bad,
            clips_per_second=round(rate, 1),
        )


def main(arguments: Sequence[str]) -> None:
    """Print every sample, and the growth from the first to the last."""
    options = _parser().parse_args(arguments)
    if not sys.platform.startswith("linux"):
        sys.exit(f"error: Expected Linux, whose /proc this script reads, but got {sys.platform}.")
    logging.getLogger("vswin_jax").setLevel(logging.ERROR)  # no line for every bad video
    samples = []
    with tempfile.TemporaryDirectory() as directory:
        for sample in measure(options, Path(directory)):
            samples.append(sample)
            print(sample, flush=True)
    first, last = samples[0], samples[-1]
    print(
        f"from batch {first.batch} to {last.batch}: "
        f"{last.resident_mb - first.resident_mb:+.1f} MB, in the decoding processes "
        f"{last.decoders_mb - first.decoders_mb:+.1f} MB, "
        f"{last.open_files - first.open_files:+d} open files"
    )
    if options.json:
        options.json.write_text(json.dumps([asdict(sample) for sample in samples], indent=2) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    numbers = {
        "batches": (5000, "batches to read"),
        "batch-size": (8, "clips per batch"),
        "frames": (8, "frames per clip"),
        "size": (56, "height and width of a clip in pixels"),
        "videos": (400, "training videos"),
        "side": (64, "height and width of a video in pixels"),
        "video-frames": (24, "frames per video"),
        "rand-augment": (2, "RandAugment operations per clip"),
        "processes": (usable_cpus(), "decoding processes; 0 decodes in threads"),
        "threads": (0, "threads that decode or feed the processes; 0 chooses their number"),
    }
    for name, (value, text) in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=value, metavar="N", help=text)
    parser.add_argument(
        "--bad", type=float, default=0.05, metavar="SHARE", help="share of bad files"
    )
    parser.add_argument("--json", type=writable_file, help="file of the results")
    return parser


if __name__ == "__main__":
    main(sys.argv[1:])
