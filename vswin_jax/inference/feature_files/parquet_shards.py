"""Shards as Parquet tables: a row a video, unreadable ones with a reason in place of features."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from vswin_jax.inference.feature_files.feature_shard import NO_LABEL, FeatureShard, UnreadVideo
from vswin_jax.inference.parquet_library import check_pyarrow
from vswin_jax.runtime.atomic_write import atomic_write
from vswin_jax.runtime.printable import encodable


def write_parquet(path: Path, partial: Path, shard: FeatureShard) -> None:
    """Write a shard as one table; features are lists of all values of a video."""
    import pyarrow as pa
    from pyarrow import parquet

    shape = shard.features.shape[1:]
    classes = shard.labels.shape[1] if shard.labels.ndim == 2 else None
    values = pa.array(np.ascontiguousarray(shard.features).reshape(-1))
    # Not lists of a fixed size: PyArrow 25 cannot read those with nulls.
    offsets = np.arange(len(shard.features) + 1, dtype=np.int64) * math.prod(shape)
    features = pa.LargeListArray.from_arrays(offsets, values)
    bad = shard.unreadable
    labels = [None if label == NO_LABEL else label for label in _classes_of(shard.labels)]
    label_type = pa.int64() if classes is None else pa.list_(pa.int64())
    columns = {
        "index": pa.array([*shard.index.tolist(), *(one.index for one in bad)], pa.int64()),
        "name": pa.array([*map(encodable, shard.names), *(encodable(one.name) for one in bad)]),
        "label": pa.array(labels + [None] * len(bad), label_type),
        "features": pa.concat_arrays([features, pa.nulls(len(bad), features.type)]),
        "reason": pa.array([None] * len(labels) + [encodable(one.reason) for one in bad], "string"),
    }
    table = pa.table(columns).replace_schema_metadata(
        {"shape": json.dumps(shape), "num_classes": json.dumps(classes)}
    )
    with atomic_write(path, partial=partial, sync=True) as file:
        parquet.write_table(table.sort_by("index"), file)


def read_parquet(path: Path) -> FeatureShard:
    """Read what `write_parquet` has written."""
    check_pyarrow()
    import pyarrow.compute as pc
    from pyarrow import parquet

    # A ParquetFile reads this file alone; read_table would read the name of its folder as columns.
    with parquet.ParquetFile(path) as file:
        table = file.read()
    is_read = pc.is_null(table["reason"])
    read, bad = table.filter(is_read), table.filter(pc.invert(is_read))
    metadata = {key: json.loads(value) for key, value in table.schema.metadata.items()}
    values = read["features"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    columns = (bad[name].to_pylist() for name in ("index", "name", "reason"))
    return FeatureShard(
        index=read["index"].to_numpy(),
        names=tuple(read["name"].to_pylist()),
        labels=_labels_of(read["label"].to_pylist(), metadata[b"num_classes"]),
        features=values.reshape(len(read), *metadata[b"shape"]),
        unreadable=tuple(map(UnreadVideo, *columns)),
    )


def _classes_of(labels: np.ndarray) -> list[Any]:
    if labels.ndim == 1:
        return labels.tolist()
    return [np.flatnonzero(row).tolist() for row in labels]


def _labels_of(labels: list[Any], classes: int | None) -> np.ndarray:
    if classes is None:
        return np.array([NO_LABEL if label is None else label for label in labels], np.int64)
    rows = np.zeros((len(labels), classes), np.int8)
    for row, label in zip(rows, labels, strict=True):
        row[label or []] = 1
    return rows
