"""Prepares a data set from its sources, continuing where a killed run stopped."""

import functools
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from vswin_jax.data.example import Source
from vswin_jax.prepare import finish
from vswin_jax.prepare.shard_plan import PLAN_FILE, PreparePlan, Shard, load_plan
from vswin_jax.prepare.work import (
    WORK,
    PrepareTask,
    VideoResult,
    finish_shard,
    finished_videos,
    prepare_video,
    reopen_shard,
    shard_results,
)
from vswin_jax.runtime.file_lock import exclusive_lock
from vswin_jax.runtime.output_path import output_directory
from vswin_jax.runtime.progress import Progress, WriteLine
from vswin_jax.runtime.worker_pool import map_in_processes

# Examples queued for each process: few, because examples from records contain whole videos.
_QUEUED_PER_PROCESS = 3


@dataclass(frozen=True)
class Outcome:
    """The outcome of `prepare`.

    Attributes:
      examples: the number of all videos.
      bad: the number of bad videos.
      complete: True if the output is complete, False if too many videos are bad.
      was_complete: True if the output was complete before the run.
    """

    examples: int
    bad: int
    complete: bool
    was_complete: bool = False


def prepare(
    plan: PreparePlan,
    sources: Mapping[str, Source],
    out: Path,
    *,
    processes: int,
    max_bad_fraction: float,
    write_line: WriteLine,
    beam_options: Sequence[str] | None = None,
) -> Outcome:
    """Prepare the sources, by split, according to the plan, unless the output is complete.

    A Beam pipeline does the work if `beam_options` are given, else `processes` on this machine.

    Raises:
      InputError: the output has other content or cannot be written, or another run writes to it.
    """
    # The cache may hold the plan of an output that was removed from this path.
    load_plan.cache_clear()
    _check_output(plan, out)
    if finish.is_complete(plan, out):
        return _complete_already(plan, out)
    output_directory(out, "the output")
    with _exclusive_lock(out):
        # Another run may have written its plan, or completed the output, since the checks above.
        _check_output(plan, out)
        if finish.is_complete(plan, out):
            return _complete_already(plan, out)
        if not (out / PLAN_FILE).exists():
            plan.save(out)
        _reopen_bad_shards(plan, out)
        shards = [shard for shard in plan.shards if shard_results(str(out), shard) is None]
        if beam_options is None:
            _run_in_processes(plan, shards, sources, out, processes, write_line)
        else:
            from vswin_jax.prepare.beam import run_pipeline

            run_pipeline(plan, shards, sources, out, beam_options)
        outcome = _finish(plan, out, max_bad_fraction)
        if outcome.complete:
            # Another run that starts now creates the lock file again while its folder is removed.
            shutil.rmtree(out / WORK, ignore_errors=True)
    return outcome


def _complete_already(plan: PreparePlan, out: Path) -> Outcome:
    # The run that completed it may have been killed before it removed this folder.
    shutil.rmtree(out / WORK, ignore_errors=True)
    return Outcome(plan.examples, 0, complete=True, was_complete=True)


def _check_output(plan: PreparePlan, out: Path) -> None:
    # A run that was killed before it wrote its plan leaves only these.
    if out.is_dir() and set(os.listdir(out)) <= {WORK, f"{PLAN_FILE}.partial"}:
        return
    if out.exists() or out.is_symlink():
        plan.check_same(out)


def _exclusive_lock(out: Path) -> AbstractContextManager[None]:
    return exclusive_lock(out / WORK / "lock", f"writing to {str(out)!r}")


def _reopen_bad_shards(plan: PreparePlan, out: Path) -> None:
    """Reopen the shards with bad videos if a run ended with too many of them.

    That run left the list of bad videos in an incomplete output. The user may have repaired them.
    """
    if not finish.has_bad_videos_file(out):
        return
    for shard in plan.shards:
        results = shard_results(str(out), shard)
        if results and any(result.reason for result in results):
            reopen_shard(str(out), shard)
    finish.remove_bad_videos_file(out)


def _run_in_processes(
    plan: PreparePlan,
    shards: Sequence[Shard],
    sources: Mapping[str, Source],
    out: Path,
    processes: int,
    write_line: WriteLine,
) -> None:
    pending = {shard: _pending_examples(plan, shard, out) for shard in shards}
    left = {shard: len(indices) for shard, indices in pending.items()}
    total = sum(left.values())
    if total < plan.examples:
        write_line(f"{plan.examples - total} of {plan.examples} videos are done from before")
    for shard, count in left.items():
        if not count:
            finish_shard(str(out), shard)
    progress, bad = Progress(total, write_line), 0
    for task, result in _prepare_videos(pending, sources, out, processes):
        bad += bool(result.reason)
        progress.add(note=f"{bad} bad" if bad else "")
        left[task.shard] -= 1
        if not left[task.shard]:
            finish_shard(str(out), task.shard)


def _prepare_videos(
    pending: Mapping[Shard, Sequence[int]],
    sources: Mapping[str, Source],
    out: Path,
    processes: int,
) -> Iterator[tuple[PrepareTask, VideoResult]]:
    tasks = (
        PrepareTask(shard, sources[shard.split][index])
        for shard, indices in pending.items()
        for index in indices
    )
    work = functools.partial(prepare_video, str(out))
    return map_in_processes(
        work, tasks, processes, lambda task: task.example.name, ahead=_QUEUED_PER_PROCESS
    )


def _pending_examples(plan: PreparePlan, shard: Shard, out: Path) -> list[int]:
    finished = finished_videos(str(out), shard)
    return [index for index in plan.indices(shard) if index not in finished]


def _finish(plan: PreparePlan, out: Path, max_bad_fraction: float) -> Outcome:
    """Write the list of bad videos and, unless there are too many, the other final files."""
    bad = finish.write_bad_videos(plan, out)
    complete = bad <= max_bad_fraction * plan.examples and finish.has_good_videos(plan, out)
    if complete:
        finish.write_final_files(plan, out)
    return Outcome(plan.examples, bad, complete)
