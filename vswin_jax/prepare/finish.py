"""The last files of an output: manifest, bad videos, classes, lists, and what TFDS wants to know.

They come after all videos, and last of all comes the one that makes the output complete.
"""

import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from vswin_jax.data.pipeline.bad_video_table import HEADER, csv_bytes
from vswin_jax.data.sources.labels import LABEL_NAMES_FILE, write_label_names
from vswin_jax.data.sources.tfds_source import LABELS_FILE
from vswin_jax.prepare import records
from vswin_jax.prepare.shard_plan import Plan
from vswin_jax.prepare.work import WORK, Row, shard_rows
from vswin_jax.runtime.atomic_write import whole_file

MANIFEST_FILE = "manifest.csv"
BAD_VIDEOS_FILE = "bad_videos.csv"
_COLUMNS = (
    *("name", "split", "label", "frames", "fps", "width", "height", "bytes", "sha256", "file"),
)


def is_complete(plan: Plan, out: Path) -> bool:
    """Whether the output is finished."""
    last = MANIFEST_FILE if plan.settings.to == "videos" else records.INFO_FILE
    return (out / last).exists()


def has_bad_videos(out: Path) -> bool:
    """Whether the list of bad videos is there."""
    return (out / BAD_VIDEOS_FILE).exists()


def remove_bad_videos(out: Path) -> None:
    """Removes the list of bad videos."""
    (out / BAD_VIDEOS_FILE).unlink()


def write_bad_videos(plan: Plan, out: Path) -> int:
    """Writes the list of bad videos and returns how many there are."""
    bad = [row for split in plan.splits for row in _rows(plan, out, split) if row.reason]
    table = [HEADER, *((row.name, row.reason, "", "") for row in bad)]
    _write(out / BAD_VIDEOS_FILE, csv_bytes(table))
    return len(bad)


def has_videos(plan: Plan, out: Path) -> bool:
    """Whether every split has a video that is not bad."""
    return all(any(not row.reason for row in _rows(plan, out, split)) for split in plan.splits)


def complete(plan: Plan, out: Path) -> None:
    """Writes the files beside the videos or the shards."""
    write_label_names(out / LABEL_NAMES_FILE, plan.label_names)
    if plan.settings.to == "videos":
        for split in plan.splits:
            _write(out / f"{split}.csv", csv_bytes(_list(plan, out, split)))
        _write(out / MANIFEST_FILE, csv_bytes(_manifest(plan, out)))
        return
    _write(out / MANIFEST_FILE, csv_bytes(_manifest(plan, out)))
    for split in plan.splits:
        labels = [row.label for row in _rows(plan, out, split) if not row.reason]
        content = io.BytesIO()
        np.save(content, np.array(labels, np.int32))
        _write(out / LABELS_FILE.format(split=split), content.getvalue())
    _write_metadata(plan, out)


def _write_metadata(plan: Plan, out: Path) -> None:
    lengths: dict[str, list[int]] = {split: [] for split in plan.splits}
    for shard in plan.shards:
        rows = shard_rows(str(out), shard) or []
        lengths[shard.split].append(sum(not row.reason for row in rows))
    staging = out / WORK / "metadata"
    staging.mkdir(exist_ok=True)
    records.write_metadata(out, staging, plan.settings, plan.label_names, lengths)


def _manifest(plan: Plan, out: Path) -> Iterator[Sequence[object]]:
    yield _COLUMNS
    for split in plan.splits:
        for row in _rows(plan, out, split):
            if not row.reason:
                yield (row.name, split, plan.label_names[row.label], *_numbers(row), row.file)


def _numbers(row: Row) -> tuple[object, ...]:
    return row.frames, f"{row.fps:.6g}", row.width, row.height, row.bytes, row.sha256


def _list(plan: Plan, out: Path, split: str) -> Iterator[Sequence[str]]:
    yield "path", "label"
    for row in _rows(plan, out, split):
        if not row.reason:
            yield row.file, plan.label_names[row.label]


def _rows(plan: Plan, out: Path, split: str) -> Iterable[Row]:
    """The rows of all videos of a split, in the order of its shards."""
    for shard in plan.shards:
        if shard.split == split:
            yield from shard_rows(str(out), shard) or []


def _write(path: Path, content: bytes) -> None:
    with whole_file(path, sync=True) as partial:
        partial.write_bytes(content)
