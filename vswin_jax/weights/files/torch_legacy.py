"""Reads the files of `torch.save` before torch 1.6, such as those of mmaction2's model zoo.

A file has five pickles (a magic number, the protocol, system information, the object, the keys of
the storages). Then, for each key, it has the number of elements as int64 and their bytes, all
little-endian (`_legacy_load` in `torch/serialization.py`). The pickle module writes a tensor as a
call of `torch.storage._load_from_bytes` with such a file of its storage.
"""

import functools
import struct
from collections.abc import Iterator, Mapping
from mmap import mmap
from typing import Any

import numpy as np

from vswin_jax.errors import InputError
from vswin_jax.weights.files.byte_reader import ByteReader
from vswin_jax.weights.files.nested_tensors import holds_tensors
from vswin_jax.weights.files.pickles import Builder, PersistentLoad, read_pickle
from vswin_jax.weights.files.tensors import Storage, StorageId, TensorBuilder, storage_id
from vswin_jax.weights.files.zip_directory import expansion_limit

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_MAX_READ = 256 << 20
# The legacy files in a plain pickle: one for each tensor, of about 30 opcodes.
_MAX_NESTED_FILES = 10_000
_MAX_NESTED_OPCODES = 200
_COUNT = struct.Struct("<q")


def read_legacy(data: mmap, source: str) -> object:
    """Read the object in a legacy file, or in a plain pickle that holds arrays or tensors.

    Raises:
      InputError: a pickle without tensors.
      ValueError: the file is damaged.
    """
    reader = ByteReader(data, max_read=_MAX_READ)
    if read_pickle(reader, {}, storage_id) == _MAGIC:
        return _read_object(reader, TensorBuilder(expansion_limit(len(data))).builders())
    loaded = read_pickle(
        ByteReader(data, max_read=_MAX_READ), _plain_builders(len(data)), storage_id
    )
    if not holds_tensors(loaded):
        raise InputError(
            f"{source} is a pickle, but not one of torch.save: give a checkpoint that PyTorch "
            f"wrote."
        )
    return loaded


def _plain_builders(size: int) -> dict[str, Builder]:
    """Return the builders for a pickle that has a whole legacy file in it for each storage."""
    tensors = TensorBuilder(expansion_limit(size))
    count = 0

    def load_from_bytes(arguments: tuple[Any, ...]) -> object:
        nonlocal count
        count += 1
        match arguments:
            case (bytes() as content,) if count <= _MAX_NESTED_FILES:
                reader = ByteReader(content, max_read=_MAX_READ)
                if read_pickle(reader, {}, storage_id, _MAX_NESTED_OPCODES) == _MAGIC:
                    return _read_object(reader, {}, _MAX_NESTED_OPCODES)
        raise ValueError("its pickle has a storage that torch.save did not write")

    return {**tensors.builders(), "torch.storage._load_from_bytes": load_from_bytes}


def _read_object(
    reader: ByteReader, builders: Mapping[str, Builder], max_opcodes: int | None = None
) -> object:
    """Read a legacy file after its magic number.

    The object's pickle is read twice, because the positions of the storages depend on data that
    follows the pickle.
    """
    if read_pickle(reader, {}, storage_id, max_opcodes) != _PROTOCOL:
        raise ValueError("its protocol is unknown")
    read_pickle(reader, {}, storage_id, max_opcodes)  # information on the writing system
    start = reader.tell()
    ids: dict[str, StorageId] = {}
    read_pickle(reader, {}, _collect_ids(ids), max_opcodes)
    keys = read_pickle(reader, {}, storage_id, max_opcodes)
    storages = dict(_read_storages(reader.data, reader.tell(), keys, ids))
    reader.seek(start)
    find = functools.partial(_find_storage, storages=storages)
    return read_pickle(reader, builders, find, max_opcodes)


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
    data: bytes | mmap, position: int, keys: object, ids: Mapping[str, StorageId]
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
