"""Writes the final files of an output: manifest, bad videos, class names, lists, TFDS metadata.

They are written after all videos, and the last of them marks the output as complete.
"""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from vswin_jax.data.pipeline.bad_video_table import HEADER, csv_bytes
from vswin_jax.data.sources.tfds_source import LABELS_FILE
from vswin_jax.prepare import records
from vswin_jax.prepare.shard_plan import PreparePlan
from vswin_jax.prepare.work import WORK, VideoResult, shard_results
from vswin_jax.runtime.atomic_write import atomic_write
from vswin_jax.runtime.label_names import LABEL_NAMES_FILE, write_label_names

MANIFEST_FILE = "manifest.csv"
BAD_VIDEOS_FILE = "bad_videos.csv"
_COLUMNS = (
    *("name", "split", "label", "frames", "fps", "width", "height", "bytes", "sha256", "file"),
)


def is_complete(plan: PreparePlan, out: Path) -> bool:
    """Return True if the last file of the output is there."""
    last = MANIFEST_FILE if plan.options.to == "videos" else records.INFO_FILE
    return (out / last).exists()


def has_bad_videos_file(out: Path) -> bool:
    """Return True if the list of bad videos is there."""
    return (out / BAD_VIDEOS_FILE).exists()


def remove_bad_videos_file(out: Path) -> None:
    """Remove the list of bad videos."""
    (out / BAD_VIDEOS_FILE).unlink()


def write_bad_videos(plan: PreparePlan, out: Path) -> int:
    """Write the list of bad videos and return their number."""
    bad = [
        result for split in plan.splits for result in _results(plan, out, split) if result.reason
    ]
    table = [HEADER, *((result.name, result.reason, "", "") for result in bad)]
    _write(out / BAD_VIDEOS_FILE, csv_bytes(table))
    return len(bad)


def has_good_videos(plan: PreparePlan, out: Path) -> bool:
    """Return True if every split has at least one video that is not bad."""
    return all(any(True for _ in _good_results(plan, out, split)) for split in plan.splits)


def write_final_files(plan: PreparePlan, out: Path) -> None:
    """Write the files beside the videos or the shards, which complete the output."""
    write_label_names(out / LABEL_NAMES_FILE, plan.label_names)
    if plan.options.to == "videos":
        for split in plan.splits:
            _write(out / f"{split}.csv", csv_bytes(_list_rows(plan, out, split)))
        _write(out / MANIFEST_FILE, csv_bytes(_manifest_rows(plan, out)))
        return
    _write(out / MANIFEST_FILE, csv_bytes(_manifest_rows(plan, out)))
    for split in plan.splits:
        labels = [result.label for result in _good_results(plan, out, split)]
        content = io.BytesIO()
        np.save(content, np.array(labels, np.int32))
        _write(out / LABELS_FILE.format(split=split), content.getvalue())
    _write_metadata(plan, out)


def _write_metadata(plan: PreparePlan, out: Path) -> None:
    lengths: dict[str, list[int]] = {split: [] for split in plan.splits}
    for shard in plan.shards:
        results = shard_results(str(out), shard) or []
        lengths[shard.split].append(sum(not result.reason for result in results))
    staging = out / WORK / "metadata"
    staging.mkdir(exist_ok=True)
    records.write_metadata(out, staging, plan.options, plan.label_names, lengths)


def _manifest_rows(plan: PreparePlan, out: Path) -> Iterator[Sequence[object]]:
    yield _COLUMNS
    for split in plan.splits:
        for result in _good_results(plan, out, split):
            label = plan.label_names[result.label]
            yield (result.name, split, label, *_number_columns(result), result.file)


def _number_columns(result: VideoResult) -> tuple[object, ...]:
    fps = f"{result.fps:.6g}"
    return result.frames, fps, result.width, result.height, result.bytes, result.sha256


def _list_rows(plan: PreparePlan, out: Path, split: str) -> Iterator[Sequence[str]]:
    yield "path", "label"
    for result in _good_results(plan, out, split):
        yield result.file, plan.label_names[result.label]


def _good_results(plan: PreparePlan, out: Path, split: str) -> Iterator[VideoResult]:
    return (result for result in _results(plan, out, split) if not result.reason)


def _results(plan: PreparePlan, out: Path, split: str) -> Iterator[VideoResult]:
    """Yield the results of all videos of a split, in the order of its shards."""
    for shard in plan.shards:
        if shard.split == split:
            yield from shard_results(str(out), shard) or []


def _write(path: Path, content: bytes) -> None:
    with atomic_write(path, sync=True) as partial:
        partial.write_bytes(content)
