"""Cost of the sampler: the time to the first batch at any step, and to the order of an epoch.

    python benchmarks/data_order.py [--examples 240000] [--rounds 5]

The examples are names of eight videos that the script writes. The first batch has 8 clips of
32x224x224, decoded and cropped. Every number is a median over rounds, and each round measures step
0 and step 1,000,000; every round has another seed, so that no order is cached from the last round.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from vswin_jax.data import ClipSpec, open_source
from vswin_jax.data.moving_shapes.moving_shapes import write_moving_shapes
from vswin_jax.data.pipeline.pipeline import train_batches
from vswin_jax.data.pipeline.sampler import Sampler
from vswin_jax.data.sources.annotations import AnnotationRow
from vswin_jax.data.sources.sources import VideoSource

CLASSES, BATCH_SIZE = 400, 8
STARTS = (0, 1_000_000)
BALANCES = {"plain": 0.0, "square roots": 0.5, "balanced": 1.0}
SPEC = ClipSpec()


def long_source(directory: Path, examples: int) -> VideoSource:
    """Write eight videos of 256x256 pixels; return `examples` names in classes of uneven sizes."""
    write_moving_shapes(
        directory / "set", train_scenes=1, test_scenes=1, size=256, num_frames=96, fps=25
    )
    few = open_source(directory / "set" / "train")
    rows = [AnnotationRow(0, few[index % len(few)].name, "") for index in range(examples)]
    labels = (np.random.default_rng(0).beta(1, 2, examples) * CLASSES).astype(np.int32)
    names = tuple(map(str, range(CLASSES)))
    return VideoSource(rows, labels, names, str(directory / "set" / "train"), frames=False)


def first_batch_seconds(source: VideoSource, seed: int, start: int, balance: float) -> float:
    """Return the time to the first batch of a run that starts at step `start`."""
    begin = time.perf_counter()
    batches = train_batches(
        source,
        SPEC,
        batch_size=BATCH_SIZE,
        seed=seed,
        start_step=start,
        class_balance=balance,
        prefetch=1,
    )
    next(batches)
    seconds = time.perf_counter() - begin
    batches.close()
    return seconds


def epoch_seconds(source: VideoSource, seed: int, balance: float) -> float:
    """Return the time to compute the order of an epoch."""
    sampler = Sampler(seed, len(source), source.labels, balance)
    begin = time.perf_counter()
    sampler.at(0)
    return time.perf_counter() - begin


def measure(source: VideoSource, balance: float, rounds: int) -> dict[str, float]:
    """Return medians in seconds by the name of the measurement."""
    times: dict[str, list[float]] = {}
    for seed in range(1, rounds + 1):
        for start in STARTS:
            seconds = first_batch_seconds(source, seed, start, balance)
            times.setdefault(f"first batch from step {start:,}", []).append(seconds)
        # The order of this seed's first epoch is cached by now; another seed's is not.
        seconds = epoch_seconds(source, -seed, balance)
        times.setdefault("order of an epoch", []).append(seconds)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    """Measure every kind of class balance and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--examples", type=int, default=240_000, metavar="N", help="%(default)s")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="%(default)s")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        source = long_source(Path(directory), options.examples)
        first_batch_seconds(source, 0, 0, 0.0)  # starts TensorFlow's threads
        for name, balance in BALANCES.items():
            for measurement, seconds in measure(source, balance, options.rounds).items():
                print(f"{name:14} {measurement:30} {1000 * seconds:8.1f} ms")


if __name__ == "__main__":
    main()
