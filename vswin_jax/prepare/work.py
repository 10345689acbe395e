"""Prepares one video or finishes one shard, on any machine, and marks it as done.

All state is in the output, so any process that sees the output can continue. Its folder `work`:

    train-00003/0000123.json    the result of a video: it is done, or bad
    train-00003/0000123.record  its record, until the shard is written
    train-00003.json            the results of a shard that is written: it is done

Files get their names once they are complete, and the file that marks something as done is renamed
after the others. Videos, shards and the results of shards are synced to the disk by then. Temporary
files are not synced: one that is damaged by a crash of the machine has another size than the result
states, and its video is prepared again.
"""

import dataclasses
import json
import os
import shutil
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from vswin_jax.data.example import Example
from vswin_jax.errors import InputError
from vswin_jax.prepare import records
from vswin_jax.prepare.encode import StoredVideo, store_video
from vswin_jax.prepare.shard_plan import PreparePlan, Shard, load_plan, video_file
from vswin_jax.runtime.atomic_write import atomic_write

WORK = "work"


class PrepareTask(NamedTuple):
    """An example, and the shard to which it belongs."""

    shard: Shard
    example: Example


@dataclass(frozen=True)
class VideoResult:
    """The result of preparing one video: its row of the manifest, or the reason why it is bad.

    Attributes:
      index: of the example in its source.
      name: of the example.
      label: the index of the class.
      frames: the number of frames.
      fps: frames a second on average.
      width: in pixels.
      height: in pixels.
      bytes: the size of the video, or of its images together.
      sha256: of the video, or of its images one after another.
      file: the video, or the shard that contains it, relative to the output.
      written: the size of the file that was written for it, a video or a record.
      reason: the reason why the video is bad; empty if it is not.
    """

    index: int
    name: str
    label: int
    frames: int = 0
    fps: float = 0.0
    width: int = 0
    height: int = 0
    bytes: int = 0
    sha256: str = ""
    file: str = ""
    written: int = 0
    reason: str = ""


def prepare_video(out: str, task: PrepareTask) -> VideoResult:
    """Prepare a video unless that is done, and return its result.

    The result of a video that cannot be read has a `reason`.
    """
    result = _finished_result(out, task.shard, task.example.id)
    if result is None:
        result = _prepare(out, load_plan(out), task)
        _write_result(out, task.shard, result)
    return result


def _prepare(out: str, plan: PreparePlan, task: PrepareTask) -> VideoResult:
    example, shard, options = task.example, task.shard, plan.options
    try:
        stored = store_video(example, options)
    except InputError as error:
        return VideoResult(example.id, example.name, example.label, reason=str(error))
    if options.to == "videos":
        file = video_file(plan, shard.split, example)
        _write(out, Path(out) / file, stored.content, sync=True)
        return _result(example, stored, file, written=stored.size)
    record = records.serialize(stored, example.label, example.name, options, plan.label_names)
    _write(out, _record_file(out, shard, example.id), record)
    return _result(example, stored, _shard_file(plan, shard), written=len(record))


def _result(example: Example, stored: StoredVideo, file: str, written: int) -> VideoResult:
    return VideoResult(
        index=example.id,
        name=example.name,
        label=example.label,
        frames=len(stored.times),
        fps=stored.fps,
        width=stored.width,
        height=stored.height,
        bytes=stored.size,
        sha256=stored.sha256,
        file=file,
        written=written,
    )


def finished_videos(out: str, shard: Shard) -> set[int]:
    """Return the examples of an unfinished shard that are done or bad."""
    folder = _videos_folder(out, shard)
    names = os.listdir(folder) if folder.is_dir() else []
    indices = (int(name.removesuffix(".json")) for name in names if name.endswith(".json"))
    return {index for index in indices if _finished_result(out, shard, index)}


def _finished_result(out: str, shard: Shard, index: int) -> VideoResult | None:
    """Return the result of a video if it is bad or its file has the size that the result states."""
    try:
        result = VideoResult(**_read(_result_file(out, shard, index)))
        if result.reason:
            return result
        are_files = load_plan(out).options.to == "videos"
        file = Path(out) / result.file if are_files else _record_file(out, shard, index)
        return result if file.stat().st_size == result.written else None
    except (OSError, ValueError):
        return None


def finish_shard(out: str, shard: Shard) -> None:
    """Write a shard whose videos are all done, unless it is written, and remove its records."""
    plan = load_plan(out)
    results_file = _results_file(out, shard)
    if not results_file.exists():
        files = (_result_file(out, shard, index) for index in plan.indices(shard))
        results = [VideoResult(**_read(file)) for file in files]
        if plan.options.to == "records":
            _write_shard(out, plan, shard, [result for result in results if not result.reason])
        _write_results(out, shard, results)
    shutil.rmtree(_videos_folder(out, shard), ignore_errors=True)


def _write_shard(out: str, plan: PreparePlan, shard: Shard, results: Iterable[VideoResult]) -> None:
    path = Path(out) / _shard_file(plan, shard)
    with atomic_write(path, partial=_partial(out), sync=True) as partial:
        files = (_record_file(out, shard, result.index) for result in results)
        records.write_shard(partial, (file.read_bytes() for file in files))


def shard_results(out: str, shard: Shard) -> list[VideoResult] | None:
    """Return the results of all videos of a shard in their order; None if it is not done."""
    path = _results_file(out, shard)
    return [VideoResult(**result) for result in _read(path)] if path.exists() else None


def reopen_shard(out: str, shard: Shard) -> None:
    """Turn a finished shard into an unfinished one, in which only the bad videos are not done."""
    plan, results = load_plan(out), shard_results(out, shard) or []
    good = [result for result in results if not result.reason]
    if plan.options.to == "records" and good:
        shard_records = records.read_shard(Path(out) / good[0].file)
        for result, record in zip(good, shard_records, strict=True):
            _write(out, _record_file(out, shard, result.index), record)
    for result in good:
        _write_result(out, shard, result)
    # Last, so that a kill before this point leaves the shard finished.
    _results_file(out, shard).unlink()


def _write_result(out: str, shard: Shard, result: VideoResult) -> None:
    content = json.dumps(dataclasses.asdict(result))
    _write(out, _result_file(out, shard, result.index), content.encode())


def _write_results(out: str, shard: Shard, results: Iterable[VideoResult]) -> None:
    content = json.dumps([dataclasses.asdict(result) for result in results])
    _write(out, _results_file(out, shard), content.encode(), sync=True)


def _shard_file(plan: PreparePlan, shard: Shard) -> str:
    return records.shard_file(shard.split, shard.number, plan.shard_count(shard.split))


def _results_file(out: str, shard: Shard) -> Path:
    return Path(out) / WORK / f"{shard.split}-{shard.number:05d}.json"


def _videos_folder(out: str, shard: Shard) -> Path:
    return Path(out) / WORK / f"{shard.split}-{shard.number:05d}"


def _result_file(out: str, shard: Shard, index: int) -> Path:
    return _videos_folder(out, shard) / f"{index:07d}.json"


def _record_file(out: str, shard: Shard, index: int) -> Path:
    return _videos_folder(out, shard) / f"{index:07d}.record"


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _write(out: str, path: Path, content: bytes, *, sync: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path, partial=_partial(out), sync=sync) as partial:
        partial.write_bytes(content)


def _partial(out: str) -> Path:
    """Return a new path for an incomplete file; Beam may run the same task twice at once."""
    return Path(out) / WORK / f"{uuid.uuid4().hex}.partial"
