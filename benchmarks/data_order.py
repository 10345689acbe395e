"""What the order of the data costs: the first batch of a run that begins anywhere, and an epoch.

    python benchmarks/data_order.py [--examples 240000] [--rounds 5]

The examples are so many names for eight videos that the script writes. The first batch is one of 8
clips of 32x224x224, decoded and cropped. Every number is a median over rounds, in which step 0 and
step 1,000,000 take turns; every round has another seed, so no order is known beforehand.
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
from vswin_jax.data.pipeline.sampler import Order
from vswin_jax.data.sources.annotations import Row
from vswin_jax.data.sources.sources import VideoSource

CLASSES, BATCH_SIZE = 400, 8
STARTS = (0, 1_000_000)
BALANCES = {"plain": 0.0, "square roots": 0.5, "balanced": 1.0}
SPEC = ClipSpec()


def long_source(directory: Path, examples: int) -> VideoSource:
    """`examples` names for eight videos of 256x256 pixels, in classes of uneven sizes."""
    write_moving_shapes(
        directory / "set", train_scenes=1, test_scenes=1, size=256, num_frames=96, fps=25
    )
    few = open_source(directory / "set" / "train")
    rows = [Row(0, few[index % len(few)].name, "") for index in range(examples)]
    labels = (np.random.default_rng(0).beta(1, 2, examples) * CLASSES).astype(np.int32)
    names = tuple(map(str, range(CLASSES)))
    return VideoSource(rows, labels, names, str(directory / "set" / "train"), frames=False)


def first_batch_seconds(source: VideoSource, seed: int, start: int, balance: float) -> float:
    """How long a run that begins at step `start` takes to its first batch."""
    before = time.perf_counter()
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
    passed = time.perf_counter() - before
    batches.close()
    return passed


def epoch_seconds(source: VideoSource, seed: int, balance: float) -> float:
    """How long it takes to put an epoch in order."""
    order = Order(seed, len(source), source.labels, balance)
    before = time.perf_counter()
    order.at(0)
    return time.perf_counter() - before


def measure(source: VideoSource, balance: float, rounds: int) -> dict[str, float]:
    """Medians in seconds, by what they are of."""
    times: dict[str, list[float]] = {}
    for seed in range(1, rounds + 1):
        for start in STARTS:
            passed = first_batch_seconds(source, seed, start, balance)
            times.setdefault(f"first batch from step {start:,}", []).append(passed)
        # The order of this epoch is remembered for its seed, so it takes another one.
        passed = epoch_seconds(source, -seed, balance)
        times.setdefault("order of an epoch", []).append(passed)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="What the order of the data costs.")
    parser.add_argument("--examples", type=int, default=240_000, metavar="N", help="%(default)s")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="%(default)s")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        source = long_source(Path(directory), asked.examples)
        first_batch_seconds(source, 0, 0, 0.0)  # TensorFlow's threads start
        for name, balance in BALANCES.items():
            for what, passed in measure(source, balance, asked.rounds).items():
                print(f"{name:14} {what:30} {1000 * passed:8.1f} ms")


if __name__ == "__main__":
    main()
