"""Shards as files of NumPy: `.npz` with many videos, or `.npy` files of one video each."""

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from vswin_jax.inference.feature_files.feature_shard import FeatureShard, UnreadVideo
from vswin_jax.runtime.atomic_write import atomic_write


def write_npz(path: Path, partial: Path, shard: FeatureShard) -> None:
    """Write a shard as one file of NumPy arrays, equal bytes for equal content."""
    arrays = {
        "features": shard.features,
        "names": _text_array(shard.names),
        "labels": shard.labels,
        "index": shard.index,
        "unreadable_index": np.array([one.index for one in shard.unreadable], np.int64),
        "unreadable_names": _text_array([one.name for one in shard.unreadable]),
        "unreadable_reasons": _text_array([one.reason for one in shard.unreadable]),
    }
    with atomic_write(path, partial=partial, sync=True) as file:
        _write_zip(file, arrays)


def _write_zip(file: Path, arrays: Mapping[str, np.ndarray]) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        for name, values in arrays.items():
            # A ZipInfo has a fixed date; np.savez may write today's.
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.ascontiguousarray(values), allow_pickle=False)


def read_npz(path: Path) -> FeatureShard:
    """Read what `write_npz` has written."""
    with np.load(path, allow_pickle=False) as arrays:
        unreadable = (arrays[f"unreadable_{name}"] for name in ("index", "names", "reasons"))
        return FeatureShard(
            index=arrays["index"],
            names=tuple(arrays["names"].tolist()),
            labels=arrays["labels"],
            features=arrays["features"],
            unreadable=tuple(map(UnreadVideo, *(column.tolist() for column in unreadable))),
        )


def write_npy(path: Path, partial: Path, shard: FeatureShard) -> None:
    """Write a `.npy` file for each video, and then the list of them as JSON at `path`."""
    for file, values in zip(shard.files, shard.features, strict=True):
        destination = path.parent / file
        destination.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(destination) as own_partial, own_partial.open("wb") as opened:
            np.save(opened, values, allow_pickle=False)
    rows = zip(shard.index.tolist(), shard.names, shard.labels.tolist(), shard.files, strict=True)
    names = ("index", "name", "label", "file")
    content = {
        "videos": [dict(zip(names, row, strict=True)) for row in rows],
        "unreadable": [one._asdict() for one in shard.unreadable],
    }
    with atomic_write(path, partial=partial, sync=True) as written:
        written.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_npy(path: Path) -> FeatureShard:
    """Read what `write_npy` has written."""
    content = json.loads(path.read_text(encoding="utf-8"))
    videos = content["videos"]
    return FeatureShard(
        index=np.array([one["index"] for one in videos], np.int64),
        names=tuple(one["name"] for one in videos),
        labels=np.array([one["label"] for one in videos]),
        features=_stack(path.parent, [one["file"] for one in videos]),
        files=tuple(one["file"] for one in videos),
        unreadable=tuple(UnreadVideo(**one) for one in content["unreadable"]),
    )


def _stack(directory: Path, files: Sequence[str]) -> np.ndarray:
    loaded = [np.load(directory / file, allow_pickle=False) for file in files]
    return np.stack(loaded) if loaded else np.zeros(0)


def _text_array(texts: Sequence[str]) -> np.ndarray:
    return np.array(texts, np.str_) if texts else np.zeros(0, "U1")
