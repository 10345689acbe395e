"""Handling of videos that cannot be read: replacement, counts, a list and a limit.

The replacement of a video is a function of (seed, epoch, example), so a restarted run, and a run
on another number of hosts, reads the same clips. The counts and the list only decide when to stop.
"""

import logging
import os
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np

from vswin_jax.data.clips.clip_augmentations import AugmentationError
from vswin_jax.data.example import Example, Source
from vswin_jax.data.pipeline.bad_video_table import BadVideoTable
from vswin_jax.data.pipeline.sampler import SamplerState, example_rng
from vswin_jax.errors import InputError
from vswin_jax.runtime.bad_fraction import exceeds_limit

log = logging.getLogger(__name__)

MAX_FRACTION = 0.05
# With half of the videos bad, one example in two million has no readable replacement.
MAX_REPLACEMENTS = 20

Clip = TypeVar("Clip")


class BadVideos:
    """Counts reads, lists every bad video once, and stops a run that has too many of them.

    Threads may share an instance. The counts are those of this process since it started. The list
    at `path` covers the whole run, over restarts and hosts; with None no list is kept.
    """

    def __init__(
        self, path: str | os.PathLike[str] | None = None, max_fraction: float = MAX_FRACTION
    ) -> None:
        self.reads = 0
        self.bad = 0
        self._max_fraction = max_fraction
        self._table = BadVideoTable(path) if path else None
        self._path = path
        self._reported: set[str] = set()
        self._lock = threading.Lock()

    def count_good(self) -> None:
        """Count a video that was read."""
        with self._lock:
            self.reads += 1

    def count_bad(self, name: str, reason: str, *, step: int, epoch: int) -> None:
        """Count the bad video `name` of training step `step` in `epoch`, both from 1.

        Raises:
          InputError: several videos are bad, and their share of the reads exceeds the limit by
            more than chance explains.
        """
        with self._lock:
            self.reads += 1
            self.bad += 1
            self._report(name, reason, step, epoch)
            # A single bad video is a large share of the reads of a small set.
            is_one = len(self._reported) == 1 and self._max_fraction > 0
            if not is_one and exceeds_limit(self.bad, self.reads, self._max_fraction):
                raise InputError(
                    f"{self._share()}, more than config.data.max_bad_fraction "
                    f"({self._max_fraction:g}) allows: find them all with scripts/check_videos.py "
                    f"and repair them, or raise the limit; the last error was: {reason}"
                )

    def summary(self) -> str:
        """Return a sentence with the counts and the path of the list; at least one video is bad."""
        return f"{self._share()}, and another was read instead; see {self._path}"

    def _share(self) -> str:
        share = self.bad / self.reads
        return f"{self.bad} of {self.reads} reads ({share:.1%}) met a video that cannot be read"

    def _report(self, name: str, reason: str, step: int, epoch: int) -> None:
        if name in self._reported:
            return
        self._reported.add(name)
        if self._table:
            self._table.add(name, reason, step, epoch)
        log.warning("step %d: a video is replaced by another one: %s", step, reason)


def candidates(
    seed: int, epoch: int, index: int, size: int, *, occurrence: int = 0
) -> Iterator[tuple[int, np.random.Generator]]:
    """Yield (example, generator) of example `index` of `size`, then of up to 20 replacements.

    No example comes twice. `occurrence` is that of `SamplerState`. The generator of a replacement
    differs from the one that the same example has at its own position in the epoch, so the
    replacement is another clip.
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
    state: SamplerState,
    bad_videos: BadVideos,
    *,
    seed: int,
    step: int,
) -> tuple[Example, Clip]:
    """Return the example of `state`, or its first replacement that can be read, and its clip.

    Raises:
      InputError: no candidate can be read, or too many videos cannot.
    """
    tried, reason = 0, ""
    epoch, index, occurrence = state
    for other, rng in candidates(seed, epoch, index, len(source), occurrence=occurrence):
        name = nameless(other)
        try:
            # Reading the record of a record file may fail too.
            example = source[other]
            name = example.name
            clip = read(example, rng)
        except AugmentationError:
            raise
        except InputError as error:
            tried, reason = tried + 1, str(error)
            bad_videos.count_bad(name, reason, step=step + 1, epoch=epoch + 1)
            continue
        bad_videos.count_good()
        return example, clip
    raise InputError(f"None of {tried} videos tried in a row can be read: {reason}")


def nameless(index: int) -> str:
    """Return the name in lists of a video whose own name cannot be read."""
    return f"example {index}"
