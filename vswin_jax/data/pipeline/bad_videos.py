"""Videos that cannot be read: what is read in their place, how many there may be, their list.

What replaces a video is a function of (seed, epoch, example), so a restarted run, and one on
another number of hosts, reads the same clips; the counts and the list decide nothing but whether
to stop.
"""

import logging
import math
import os
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np

from vswin_jax.data.decoding.decode import open_video, sample_frames
from vswin_jax.data.example import Example, Source
from vswin_jax.data.pipeline.bad_video_table import BadVideoTable
from vswin_jax.data.pipeline.sampler import example_rng
from vswin_jax.errors import InputError

log = logging.getLogger(__name__)

MAX_FRACTION = 0.05
# With half of the videos bad, one example in two million finds none to replace it.
MAX_REPLACEMENTS = 20
# Fewer say nothing about a data set.
_MIN_READS = 20
# How far, in standard deviations, chance may carry a set that is just good enough past the limit.
_MARGIN = 4.0

Clip = TypeVar("Clip")


class BadVideos:
    """Counts reads, names every bad video once, and ends a run that has too many of them.

    Threads may share one. The counts are of this process since it started; the list at `path` is
    of the whole run, over restarts and hosts, and None keeps no list.
    """

    def __init__(
        self, path: str | os.PathLike[str] | None = None, max_fraction: float = MAX_FRACTION
    ) -> None:
        self.reads = 0
        self.bad = 0
        self._max_fraction = max_fraction
        self._table = BadVideoTable(path) if path else None
        self._path = path
        self._named: set[str] = set()
        self._lock = threading.Lock()

    def count_good(self) -> None:
        """Counts a video that was read."""
        with self._lock:
            self.reads += 1

    def count_bad(self, name: str, reason: str, *, step: int, epoch: int) -> None:
        """Counts the video `name`, which training step `step` in `epoch` (both from 1) met.

        Raises:
            InputError: the share of bad reads is past the limit, beyond what chance explains.
        """
        with self._lock:
            self.reads += 1
            self.bad += 1
            self._name(name, reason, step, epoch)
            if self._are_too_many():
                raise InputError(
                    f"{self._share()}, more than config.data.max_bad_fraction "
                    f"({self._max_fraction:g}) allows: find them all with scripts/check_videos.py "
                    f"and repair them, or raise the limit; the last one says: {reason}"
                )

    def summary(self) -> str:
        """The counts in words and where the list is, once a bad video was met."""
        return f"{self._share()}, and another was read instead; see {self._path}"

    def _share(self) -> str:
        share = self.bad / self.reads
        return f"{self.bad} of {self.reads} reads ({share:.1%}) met a video that cannot be read"

    def _name(self, name: str, reason: str, step: int, epoch: int) -> None:
        if name in self._named:
            return
        self._named.add(name)
        if self._table:
            self._table.add(name, reason, step, epoch)
        log.warning("step %d reads another video instead: %s", step, reason)

    def _are_too_many(self) -> bool:
        limit = self._max_fraction
        if not limit:
            return True
        # Examples come in random order: at first even a good set may show many bad ones.
        margin = _MARGIN * math.sqrt(limit * (1 - limit) * self.reads)
        return self.reads >= _MIN_READS and self.bad > limit * self.reads + margin


def candidates(
    seed: int, epoch: int, index: int, size: int, *, occurrence: int = 0
) -> Iterator[tuple[int, np.random.Generator]]:
    """(example, its draws): the one at `index` of `size`, then up to 20 others, none twice.

    `occurrence` is that of `order.Turn`. A replacement's draws are not those of its own turn in the
    epoch, so it is another clip.
    """
    yield index, example_rng(seed, epoch, index, occurrence=occurrence)
    tried = {index}
    for attempt in range(1, MAX_REPLACEMENTS + 1 if size > 1 else 1):
        rng = example_rng(seed, epoch, index, occurrence=occurrence, attempt=attempt)
        other = (index + 1 + int(rng.bit_generator.random_raw()) % (size - 1)) % size
        if other not in tried:
            tried.add(other)
            yield other, rng


def read_or_replace(
    read: Callable[[Example, np.random.Generator], Clip],
    source: Source,
    index: int,
    bad_videos: BadVideos,
    *,
    seed: int,
    epoch: int,
    step: int,
    occurrence: int = 0,
) -> tuple[Example, Clip]:
    """The example at `index` or the first of its replacements that can be read, and its clip.

    `epoch` and `step` count from 0, `occurrence` is that of `order.Turn`.

    Raises:
        InputError: none of them can be read, or too many cannot.
    """
    tried, reason = 0, ""
    for other, rng in candidates(seed, epoch, index, len(source), occurrence=occurrence):
        example = source[other]
        try:
            clip = read(example, rng)
        except InputError as error:
            tried, reason = tried + 1, str(error)
            bad_videos.count_bad(example.name, reason, step=step + 1, epoch=epoch + 1)
            continue
        bad_videos.count_good()
        return example, clip
    raise InputError(f"None of {tried} videos tried in a row can be read: {reason}")


def why_unreadable(example: Example) -> str:
    """Decodes the first, the middle and the last frame; what is wrong in a sentence, or ""."""
    try:
        with open_video(example.video, example.name) as video:
            sample_frames(video)
    except InputError as error:
        return str(error)
    return ""
