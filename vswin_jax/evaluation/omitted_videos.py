"""Held-out videos that cannot be read: a list with the reasons, and a check before a run begins."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
from jax.experimental.multihost_utils import process_allgather
from ml_collections import ConfigDict

from vswin_jax.data.decoding.frames import FrameFolder
from vswin_jax.data.example import Example, Source
from vswin_jax.data.pipeline.bad_video_table import csv_bytes
from vswin_jax.data.pipeline.bad_videos import nameless
from vswin_jax.data.pipeline.clip_processes import choose_processes, shared_processes
from vswin_jax.data.pipeline.video_check import open_failure
from vswin_jax.data.sources.sources import VideoSource
from vswin_jax.errors import InputError, join_some
from vswin_jax.reporting.metric_writer import BAD_HELD_OUT
from vswin_jax.runtime.atomic_write import atomic_write
from vswin_jax.runtime.bad_fraction import exceeds_limit

log = logging.getLogger(__name__)

# Looking up every file of a longer list would take minutes on a network disk.
_MAX_CHECKED_FILES = 10_000
_MAX_SHOWN = 3


def video_name(source: Source, index: int) -> str:
    """Return the name of a video, or its index if a damaged record holds it."""
    try:
        return source[index].name
    except InputError:
        return nameless(index)


def write_omitted(directory: Path, omitted: Mapping[int, str], source: Source) -> None:
    """Write the list of the omitted videos to `directory`, or delete that of an earlier evaluation.

    Process 0 writes it; the others return at once.
    """
    if jax.process_index() != 0:
        return
    if not omitted:
        (directory / BAD_HELD_OUT).unlink(missing_ok=True)
        return
    rows = [(video_name(source, index), reason) for index, reason in omitted.items()]
    directory.mkdir(parents=True, exist_ok=True)
    with atomic_write(directory / BAD_HELD_OUT) as partial:
        partial.write_bytes(csv_bytes([("path", "reason"), *rows]))


def check_held_out(source: Source, config: ConfigDict) -> None:
    """Refuse a held-out set with too many missing files, before anything is trained.

    If `config.eval.strict`, every file is opened, and one that cannot be is an error. Each host
    opens its share of them; all raise together. Data sets of records are not read in advance.

    Raises:
      InputError: a file cannot be opened, or too many are missing.
    """
    if not isinstance(source, VideoSource):
        return
    if config.eval.strict:
        _refuse(_unopened(source, config), len(source), "cannot be opened", "config.eval.strict")
    elif len(source) <= _MAX_CHECKED_FILES:
        _check_missing(source, config.data.max_bad_fraction)


def _check_missing(source: VideoSource, max_fraction: float) -> None:
    missing = {n: f"{e.name!r} is missing" for n, e in _share(source) if _is_missing(e)}
    total = _total(missing)
    if total and exceeds_limit(total, len(source), max_fraction):
        _refuse(missing, len(source), "are missing", "config.data.max_bad_fraction")
    if missing:
        shown = join_some(list(missing.values()), _MAX_SHOWN)
        log.warning("%d of %d held-out videos cannot be scored: %s", total, len(source), shown)


def _unopened(source: VideoSource, config: ConfigDict) -> dict[int, str]:
    """Return the reasons why files of this host's share cannot be opened, by their indices."""
    processes = choose_processes(config.data.processes)
    open_one: Callable[[Example], str] = open_failure
    if processes:
        open_one = shared_processes(processes).open_failure
    share = list(_share(source))
    with ThreadPoolExecutor(max(processes, 1)) as pool:
        reasons = pool.map(open_one, [example for _, example in share])
        return {index: why for (index, _), why in zip(share, reasons, strict=True) if why}


def _share(source: VideoSource) -> Sequence[tuple[int, Example]]:
    indices = range(jax.process_index(), len(source), jax.process_count())
    return [(index, source[index]) for index in indices]


def _is_missing(example: Example) -> bool:
    video = example.video
    path = video.path if isinstance(video, FrameFolder) else video
    return isinstance(path, str | os.PathLike) and not os.path.exists(path)


def _total(reasons: Mapping[int, str]) -> int:
    """Return the number of reasons of all hosts."""
    count = np.int32(len(reasons))
    return int(np.sum(process_allgather(count))) if jax.process_count() > 1 else int(count)


def _refuse(reasons: Mapping[int, str], num_videos: int, what: str, setting: str) -> None:
    total = _total(reasons)
    if not total:
        return
    first = next(iter(reasons.values()), "see the error of another process")
    raise InputError(
        f"{total} of the {num_videos} held-out videos {what}, which {setting} does not allow: "
        f"repair them, or change it; the first is: {first}"
    )
