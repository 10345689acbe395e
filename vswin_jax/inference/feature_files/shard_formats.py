"""The formats of shards.

- npz: one file of NumPy arrays
- parquet: one table
- npy: a `.npy` file a video, and a JSON file that lists those of the shard
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from vswin_jax.inference.feature_files import array_shards, parquet_shards
from vswin_jax.inference.feature_files.feature_shard import FeatureShard


class ShardFormat(NamedTuple):
    """The suffix of the file that a complete shard has, the function that writes it, its reader."""

    suffix: str
    write: Callable[[Path, Path, FeatureShard], None]
    read: Callable[[Path], FeatureShard]


FORMATS: Mapping[str, ShardFormat] = {
    "npz": ShardFormat(".npz", array_shards.write_npz, array_shards.read_npz),
    "parquet": ShardFormat(".parquet", parquet_shards.write_parquet, parquet_shards.read_parquet),
    "npy": ShardFormat(".json", array_shards.write_npy, array_shards.read_npy),
}
