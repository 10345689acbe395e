"""The whole job: from sources to a finished output, going on where a killed one stopped."""

import contextlib
import functools
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vswin_jax.data.example import Source
from vswin_jax.errors import InputError
from vswin_jax.prepare import finish
from vswin_jax.prepare.shard_plan import PLAN_FILE, Plan, Shard, load_plan
from vswin_jax.prepare.work import (
    WORK,
    Item,
    finish_shard,
    finished_videos,
    prepare_video,
    reopen_shard,
    shard_rows,
)
from vswin_jax.runtime.file_lock import try_lock
from vswin_jax.runtime.progress import Progress
from vswin_jax.runtime.worker_pool import in_processes

# Examples that are handed out before they are worked on; those from records hold whole videos.
_AHEAD = 3

Say = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """How a job ended: videos in all and bad ones among them, and whether it was done before.

    complete: whether the output is finished; if not there are too many bad ones.
    """

    examples: int
    bad: int
    complete: bool
    was_complete: bool = False


def prepare(
    plan: Plan,
    sources: Mapping[str, Source],
    out: Path,
    *,
    processes: int,
    max_bad_fraction: float,
    say: Say,
    beam_options: Sequence[str] | None = None,
) -> Outcome:
    """Does what the plan says with the sources, by split, unless that is done.

    beam_options: runs it as a Beam pipeline with these options instead of in `processes`.

    Raises:
        InputError: the output holds something else, or another run is writing to it.
    """
    load_plan.cache_clear()  # it may be of what stood there before
    _check(plan, out)
    if finish.is_complete(plan, out):
        shutil.rmtree(out / WORK, ignore_errors=True)
        return Outcome(plan.examples, 0, complete=True, was_complete=True)
    with _only_one(out):
        if not (out / PLAN_FILE).exists():
            plan.save(out)
        _retry_bad_videos(plan, out)
        shards = [shard for shard in plan.shards if shard_rows(str(out), shard) is None]
        if beam_options is None:
            _in_processes(plan, shards, sources, out, processes, say)
        else:
            from vswin_jax.prepare.beam import run_pipeline

            run_pipeline(plan, shards, sources, out, beam_options)
        bad = finish.write_bad_videos(plan, out)
        complete = bad <= max_bad_fraction * plan.examples and finish.has_videos(plan, out)
        if complete:
            finish.complete(plan, out)
    if complete:
        shutil.rmtree(out / WORK)
    return Outcome(plan.examples, bad, complete)


def _check(plan: Plan, out: Path) -> None:
    # What a run leaves that was killed before it wrote its plan.
    if out.is_dir() and set(os.listdir(out)) <= {WORK, f"{PLAN_FILE}.partial"}:
        return
    if out.exists() or out.is_symlink():
        plan.check_same(out)


@contextlib.contextmanager
def _only_one(out: Path) -> Iterator[None]:
    (out / WORK).mkdir(parents=True, exist_ok=True)
    with (out / WORK / "lock").open("wb") as file:
        if not try_lock(file):
            raise InputError(
                f"Another run is writing to {str(out)!r}: wait until it has ended, or stop it."
            )
        yield


def _retry_bad_videos(plan: Plan, out: Path) -> None:
    """A list of bad videos in an output that is not complete: they have been repaired by now."""
    if not finish.has_bad_videos(out):
        return
    for shard in plan.shards:
        rows = shard_rows(str(out), shard)
        if rows and any(row.reason for row in rows):
            reopen_shard(str(out), shard)
    finish.remove_bad_videos(out)


def _in_processes(
    plan: Plan,
    shards: Sequence[Shard],
    sources: Mapping[str, Source],
    out: Path,
    processes: int,
    say: Say,
) -> None:
    left = {shard: _left(plan, shard, out) for shard in shards}
    missing = {shard: len(indices) for shard, indices in left.items()}
    total = sum(missing.values())
    if total < plan.examples:
        say(f"{plan.examples - total} of {plan.examples} videos are done from before")
    for shard, count in missing.items():
        if not count:
            finish_shard(str(out), shard)
    progress, bad = Progress(total, say), 0
    items = (Item(shard, sources[shard.split][i]) for shard in shards for i in left[shard])
    work = functools.partial(prepare_video, str(out))
    done = in_processes(work, items, processes, lambda item: item.example.name, ahead=_AHEAD)
    for item, row in done:
        bad += bool(row.reason)
        progress.add(note=f"{bad} bad" if bad else "")
        missing[item.shard] -= 1
        if not missing[item.shard]:
            finish_shard(str(out), item.shard)


def _left(plan: Plan, shard: Shard, out: Path) -> list[int]:
    finished = finished_videos(str(out), shard)
    return [index for index in plan.indices(shard) if index not in finished]
