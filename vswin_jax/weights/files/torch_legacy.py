"""Reads the files of `torch.save` before torch 1.6, such as those of mmaction2's model zoo.

A file has five pickles (a magic number, the protocol, system information, the object, the keys of
the storages). Then, for each key, it has the number of elements as int64 and their bytes, all
little-endian (`_legacy_load` in `torch/serialization.py`).
"""

import struct
from collections.abc import Iterator, Mapping
from mmap import mmap

import numpy as np

from vswin_jax.errors import InputError
from vswin_jax.weights.files.byte_reader import ByteReader
from vswin_jax.weights.files.pickles import PersistentLoad, read_pickle
from vswin_jax.weights.files.tensors import Storage, StorageId, TensorBuilder, storage_id
from vswin_jax.weights.files.torch_zip import expansion_limit

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_MAX_READ = 256 << 20
_COUNT = struct.Struct("<q")


def read_legacy(data: mmap, source: str) -> object:
    """Read the object in a legacy file.

    The object's pickle is read twice, because the positions of the storages depend on data that
    follows the pickle.

    Raises:
      InputError: `torch.save` did not write the pickle.
      ValueError: the file is damaged.
    """
    reader = ByteReader(data, max_read=_MAX_READ)
    _read_preamble(reader, source)
    start = reader.tell()
    ids: dict[str, StorageId] = {}
    read_pickle(reader, {}, _collect_ids(ids))
    keys = read_pickle(reader, {}, storage_id)
    storages = dict(_read_storages(data, reader.tell(), keys, ids))
    reader.seek(start)
    builders = TensorBuilder(expansion_limit(len(data))).builders()
    return read_pickle(reader, builders, lambda persistent: _find_storage(persistent, storages))


def _read_preamble(reader: ByteReader, source: str) -> None:
    """Check the magic number and the protocol, and skip the system information."""
    if read_pickle(reader, {}, storage_id) != _MAGIC:
        raise InputError(
            f"{source} is a pickle, but not one of torch.save: give a checkpoint that PyTorch "
            f"wrote."
        )
    if read_pickle(reader, {}, storage_id) != _PROTOCOL:
        raise ValueError("its protocol is unknown")
    read_pickle(reader, {}, storage_id)


def _module_class(persistent: object) -> object | None:
    """Return the class in `("module", class, source file, source code)`; None for other ids.

    PyTorch stores the source code to warn when it has changed.
    """
    match persistent:
        case ("module", module_class, *_):
            return module_class
    return None


def _collect_ids(ids: dict[str, StorageId]) -> PersistentLoad:
    """Return a persistent load that adds each storage's id to `ids`, by key."""

    def load(persistent: object) -> object:
        if module_class := _module_class(persistent):
            return module_class
        found = storage_id(persistent)
        return ids.setdefault(found.key, found)

    return load


def _read_storages(
    data: mmap, position: int, keys: object, ids: Mapping[str, StorageId]
) -> Iterator[tuple[str, Storage]]:
    """Yield the storages in the file from `position` on, in the order of `keys`."""
    if not isinstance(keys, list):
        raise ValueError("it has no list of storages")
    stored = np.frombuffer(data, np.uint8)
    for key in keys:
        if not isinstance(key, str) or key not in ids:
            raise ValueError("it has a storage that no tensor uses")
        dtype = ids[key].dtype
        header = data[position : position + _COUNT.size]
        count = _COUNT.unpack(header)[0] if len(header) == _COUNT.size else -1
        position += _COUNT.size
        end = position + count * dtype.itemsize
        if count < 0 or end > len(data):
            raise ValueError("its tensors end beyond the file")
        yield key, Storage(stored[position:end], dtype)
        position = end


def _find_storage(persistent: object, storages: Mapping[str, Storage]) -> object:
    if module_class := _module_class(persistent):
        return module_class
    found = storage_id(persistent)
    if found.key not in storages:
        raise ValueError("one of its storages is missing")
    whole = storages[found.key]
    if found.view is None:
        return Storage(whole.data, found.dtype)
    start, count = (number * found.dtype.itemsize for number in found.view)
    return Storage(whole.data[start : start + count], found.dtype)
