"""A run restarted at random steps on other numbers of hosts reads the same clips."""

import contextlib
import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vswin_jax.data import ClipSpec, Example, open_source
from vswin_jax.data.pipeline import sampler
from vswin_jax.data.pipeline.pipeline import train_batches
from vswin_jax.data.sources.annotations import AnnotationRow
from vswin_jax.data.sources.sources import VideoSource

pytestmark = pytest.mark.long

WriteVideo = Callable[..., Path]

# Eight plain epochs, or four with two clips of each video; no epoch ends with a batch.
VIDEOS, BATCH_SIZE, STEPS = 11, 8, 11
SPEC = {"num_frames": 3, "frame_interval": 2, "resize": 36, "size": 32}
ORDERS: tuple[dict[str, float], ...] = ({}, {"aug_repeats": 2, "class_balance": 1.0})
# From the start, and after each of the three restarts.
HOSTS = (1, 2, 4, 1)
RESTARTS = sorted(random.Random(8).sample(range(1, STEPS), 3))
SEED = 6

# One host: prints (step, index in ORDERS, random draws of its rows), one step more than the test
# reads, and waits to be killed.
HOST = """
import json, signal, sys
from vswin_jax.data import ClipSpec, open_source
from vswin_jax.data.pipeline.pipeline import train_batches

stop, spec, settings, orders = map(json.loads, sys.argv[2:])
source = open_source(sys.argv[1])
streams = [train_batches(source, ClipSpec(**spec), **settings, **order) for order in orders]
for step in range(settings["start_step"], stop + 1):
    for order, batches in enumerate(streams):
        batch = next(batches)
        rows = zip(*(batch[name].tolist() for name in ("epoch", "id", "flip", "frames", "box")))
        print(json.dumps([step, order, list(rows)]), flush=True)
signal.pause()
"""


@pytest.fixture
def videos(write_video: WriteVideo, tmp_path: Path) -> Path:
    """Write four videos of one class and seven of another, all of different lengths."""
    for number in range(VIDEOS):
        write_video(f"set/{'jump' if number < 4 else 'run'}/{number}.mp4", 6 + 2 * number)
    return tmp_path / "set"


@contextlib.contextmanager
def host(videos: Path, stop: int, **settings: int) -> Iterator[Iterator[list[Any]]]:
    """Run a host that is killed at the end; yield what it prints."""
    arguments = [str(videos), *map(json.dumps, (stop, SPEC, settings, ORDERS))]
    command = [sys.executable, "-c", HOST, *arguments]
    with subprocess.Popen(
        command, cwd=Path(__file__).parents[3], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield map(json.loads, process.stdout or ())
        finally:
            process.kill()


def read(videos: Path, start: int, stop: int, hosts: int) -> list[Counter[str]]:
    """Count the draws of all hosts from step `start` to `stop`, for each of `ORDERS`."""
    drawn = [Counter[str]() for _ in ORDERS]
    settings = {"batch_size": BATCH_SIZE, "seed": SEED, "start_step": start, "threads": 2}
    with contextlib.ExitStack() as stack:
        running = [
            stack.enter_context(
                host(videos, stop, process_index=index, process_count=hosts, **settings)
            )
            for index in range(hosts)
        ]
        for lines in running:
            for expected in range(start, stop):
                for order in range(len(ORDERS)):
                    step, printed_order, rows = next(lines)
                    assert [step, printed_order] == [expected, order]
                    assert len(rows) == BATCH_SIZE // hosts
                    drawn[order].update(map(str, rows))
    return drawn


def undisturbed(videos: Path, settings: dict[str, float]) -> list[list[Any]]:
    source = open_source(videos)
    batches = train_batches(source, ClipSpec(**SPEC), batch_size=BATCH_SIZE, seed=SEED, **settings)
    rows = []
    for _ in range(STEPS):
        batch = next(batches)
        names = ("epoch", "id", "flip", "frames", "box")
        rows += map(list, zip(*(batch[name].tolist() for name in names), strict=True))
    return rows


def test_a_run_restarted_on_other_hosts_reads_the_same_clips(videos: Path) -> None:
    starts = (0, *RESTARTS)
    parts = [read(videos, *part) for part in zip(starts, (*RESTARTS, STEPS), HOSTS, strict=True)]
    for order, settings in enumerate(ORDERS):
        whole = undisturbed(videos, settings)
        assert len(whole) == STEPS * BATCH_SIZE
        # Frames and crops belong to an epoch and an id, so this is the multiset of every epoch.
        assert sum((part[order] for part in parts), Counter()) == Counter(map(str, whole))
        counts = Counter((epoch, index) for epoch, index, *_ in whole)
        if not settings:
            assert counts == Counter(
                (epoch, index) for epoch in range(8) for index in range(VIDEOS)
            )
            continue
        assert {epoch for epoch, _ in counts} == set(range(4))
        for epoch in range(4):
            of_class = [0, 0]
            for index in range(VIDEOS):
                of_class[index >= 4] += counts[epoch, index]
            assert sorted(of_class) == [2 * 5, 2 * 6]


class CountingSource(VideoSource):
    """A data set that counts the accesses to its videos."""

    reads = 0

    def __getitem__(self, index: int) -> Example:
        self.reads += 1
        return super().__getitem__(index)


@pytest.mark.parametrize("balance", [0.0, 0.5])
def test_starting_at_the_millionth_step_costs_nothing(
    balance: float, videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compare with a start at step 0: as many epochs are shuffled, and as few videos are opened."""
    shuffled: list[int] = []
    permute = sampler.permutation
    monkeypatch.setattr(
        sampler, "permutation", lambda *key: shuffled.append(key[1]) or permute(*key)
    )
    few = open_source(videos)
    # A thousand names for the same videos; steps 0 and 1,000,000 both begin an epoch.
    rows = [AnnotationRow(0, few[k % VIDEOS].name, "") for k in range(1000)]
    labels = np.arange(1000, dtype=np.int32) % VIDEOS // 4
    reading = {"batch_size": 4, "seed": 1, "class_balance": balance, "threads": 1, "prefetch": 1}
    for start in (0, 1_000_000):
        shuffled.clear()
        source = CountingSource(rows, labels, ("a", "b", "c"), str(videos), frames=False)
        batches = train_batches(source, ClipSpec(**SPEC), start_step=start, **reading)
        first = next(batches)
        assert first["epoch"].tolist() == [start * 4 // 1000] * 4
        # A prefetched batch, one that is being filled, and the row of the thread.
        assert 4 <= source.reads <= 3 * 4 + 1
        assert set(shuffled) == {start * 4 // 1000}
        batches.close()
