"""What is done for one video and for one shard, on whatever machine, and what marks it as done.

Everything is in the output, so whoever sees that can go on. In its folder `work`:

    train-00003/0000123.json    the video's row of the manifest: it is done, or bad
    train-00003/0000123.record  its record, until the shard is written
    train-00003.json            the rows of a shard that is written: it is done

Files get their names when they are whole, the one that marks something as done after the others.
Videos, shards and their rows are on the disk by then. What is there for a while only need not be:
what a machine lost when it went down has another size than its row says, and is done again.
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
from vswin_jax.prepare.encode import Stored, store
from vswin_jax.prepare.shard_plan import Plan, Shard, load_plan, video_file
from vswin_jax.runtime.atomic_write import whole_file

WORK = "work"


class Item(NamedTuple):
    """An example, and the shard that it goes to."""

    shard: Shard
    example: Example


@dataclass(frozen=True)
class Row:
    """What the manifest says of a video; `reason` says why it is bad and is empty if it is not.

    label: the index of the class; bytes, sha256: of the video, of images one after another.
    file: the video or the shard that it is in, relative to the output.
    written: the size of the file that was written for it, a video or a record.
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


def prepare_video(out: str, item: Item) -> Row:
    """Prepares a video unless that is done, and returns its row.

    A video that cannot be read has a row too, which says why.
    """
    row = _finished_row(out, item.shard, item.example.id)
    if row is None:
        row = _prepare(out, load_plan(out), item)
        _write_row(out, item.shard, row)
    return row


def _prepare(out: str, plan: Plan, item: Item) -> Row:
    example, shard = item.example, item.shard
    try:
        stored = store(example, plan.settings)
    except InputError as error:
        return Row(example.id, example.name, example.label, reason=str(error))
    if plan.settings.to == "videos":
        file = video_file(plan, shard.split, example)
        _write(out, Path(out) / file, stored.content, sync=True)
        return _row(example, stored, file, stored.size)
    record = records.serialize(stored, example.label, example.name, plan.settings, plan.label_names)
    _write(out, _record_file(out, shard, example.id), record)
    return _row(example, stored, _shard_file(plan, shard), len(record))


def _row(example: Example, stored: Stored, file: str, written: int) -> Row:
    return Row(
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
    """The examples of a shard that are done, or bad, though the shard is not."""
    folder = _videos_folder(out, shard)
    names = os.listdir(folder) if folder.is_dir() else []
    indices = (int(name.removesuffix(".json")) for name in names if name.endswith(".json"))
    return {index for index in indices if _finished_row(out, shard, index)}


def _finished_row(out: str, shard: Shard, index: int) -> Row | None:
    try:
        row = Row(**_read(_row_file(out, shard, index)))
        if row.reason:
            return row
        are_videos = load_plan(out).settings.to == "videos"
        file = Path(out) / row.file if are_videos else _record_file(out, shard, index)
        return row if file.stat().st_size == row.written else None
    except (OSError, ValueError):
        return None


def finish_shard(out: str, shard: Shard) -> None:
    """Writes a shard whose videos are all done, unless it is done."""
    plan = load_plan(out)
    rows_file = _rows_file(out, shard)
    if not rows_file.exists():
        rows = [Row(**_read(_row_file(out, shard, index))) for index in plan.indices(shard)]
        if plan.settings.to == "records":
            _write_shard(out, plan, shard, [row for row in rows if not row.reason])
        _write_rows(out, shard, rows)
    shutil.rmtree(_videos_folder(out, shard), ignore_errors=True)


def _write_shard(out: str, plan: Plan, shard: Shard, rows: Iterable[Row]) -> None:
    path = Path(out) / _shard_file(plan, shard)
    with whole_file(path, partial=_partial(out), sync=True) as partial:
        files = (_record_file(out, shard, row.index) for row in rows)
        records.write_shard(partial, (file.read_bytes() for file in files))


def shard_rows(out: str, shard: Shard) -> list[Row] | None:
    """The rows of all videos of a shard in their order; None while it is not done."""
    path = _rows_file(out, shard)
    return [Row(**row) for row in _read(path)] if path.exists() else None


def reopen_shard(out: str, shard: Shard) -> None:
    """Takes a shard that is done apart again, so that its bad videos, and only they, are not."""
    plan, rows = load_plan(out), shard_rows(out, shard) or []
    good = [row for row in rows if not row.reason]
    if plan.settings.to == "records" and good:
        for row, record in zip(good, records.read_shard(Path(out) / good[0].file), strict=True):
            _write(out, _record_file(out, shard, row.index), record)
    for row in good:
        _write_row(out, shard, row)
    _rows_file(out, shard).unlink()


def _write_row(out: str, shard: Shard, row: Row) -> None:
    content = json.dumps(dataclasses.asdict(row))
    _write(out, _row_file(out, shard, row.index), content.encode())


def _write_rows(out: str, shard: Shard, rows: Iterable[Row]) -> None:
    content = json.dumps([dataclasses.asdict(row) for row in rows])
    _write(out, _rows_file(out, shard), content.encode(), sync=True)


def _shard_file(plan: Plan, shard: Shard) -> str:
    return records.shard_file(*shard, plan.shard_count(shard.split))


def _rows_file(out: str, shard: Shard) -> Path:
    return Path(out) / WORK / f"{shard.split}-{shard.number:05d}.json"


def _videos_folder(out: str, shard: Shard) -> Path:
    return Path(out) / WORK / f"{shard.split}-{shard.number:05d}"


def _row_file(out: str, shard: Shard, index: int) -> Path:
    return _videos_folder(out, shard) / f"{index:07d}.json"


def _record_file(out: str, shard: Shard, index: int) -> Path:
    return _videos_folder(out, shard) / f"{index:07d}.record"


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _write(out: str, path: Path, content: bytes, *, sync: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path, partial=_partial(out), sync=sync) as partial:
        partial.write_bytes(content)


def _partial(out: str) -> Path:
    """Where a file is written until it is whole; a cluster may do the same work twice at once."""
    return Path(out) / WORK / f"{uuid.uuid4().hex}.partial"
