"""The files of `torch.save` before torch 1.6, as mmaction2's model zoo was published.

Five pickles (a magic number, the protocol, the system, the object, the keys of the storages), and
then for each key the number of elements, int64, and their bytes, all little-endian
(`_legacy_load` in `torch/serialization.py`).
"""

import struct
from collections.abc import Iterator, Mapping
from mmap import mmap

import numpy as np

from vswin_jax.errors import InputError
from vswin_jax.weights.files.byte_reader import ByteReader
from vswin_jax.weights.files.pickles import read_pickle
from vswin_jax.weights.files.tensors import Storage, StorageId, TensorBuilder, storage_id
from vswin_jax.weights.files.torch_zip import allowance

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_LONGEST_PIECE = 256 << 20
_COUNT = struct.Struct("<q")


def read_legacy(data: mmap, source: str) -> object:
    """The object in a legacy file.

    Its pickle is read twice: where the storages lie is only said behind it.

    Raises:
      InputError: it is a pickle of something else.
      ValueError: it is damaged; the message says how.
    """
    reader = ByteReader(data, _LONGEST_PIECE)
    if read_pickle(reader, {}, storage_id) != _MAGIC:
        raise InputError(
            f"{source} is a pickle, but not one of torch.save: give a checkpoint that PyTorch "
            f"wrote."
        )
    if read_pickle(reader, {}, storage_id) != _PROTOCOL:
        raise ValueError("its protocol is unknown")
    read_pickle(reader, {}, storage_id)
    start = reader.tell()
    wanted: dict[str, StorageId] = {}
    read_pickle(reader, {}, lambda persistent: _note(persistent, wanted))
    keys = read_pickle(reader, {}, storage_id)
    storages = dict(_storages(data, reader.tell(), keys, wanted))
    reader.seek(start)
    builders = TensorBuilder(allowance(len(data))).builders()
    return read_pickle(reader, builders, lambda persistent: _storage(persistent, storages))


def _class_of(persistent: object) -> object | None:
    """The class in `("module", class, its file, its source)`, kept for a warning; or None."""
    match persistent:
        case ("module", kind, *_):
            return kind
    return None


def _note(persistent: object, wanted: dict[str, StorageId]) -> object:
    if kind := _class_of(persistent):
        return kind
    found = storage_id(persistent)
    return wanted.setdefault(found.key, found)


def _storages(
    data: mmap, position: int, keys: object, wanted: Mapping[str, StorageId]
) -> Iterator[tuple[str, Storage]]:
    """The storages that lie in the file from `position` on, in the order of `keys`."""
    if not isinstance(keys, list):
        raise ValueError("it does not list its storages")
    stored = np.frombuffer(data, np.uint8)
    for key in keys:
        if not isinstance(key, str) or key not in wanted:
            raise ValueError("it has a storage that no tensor uses")
        dtype = wanted[key].dtype
        header = data[position : position + _COUNT.size]
        count = _COUNT.unpack(header)[0] if len(header) == _COUNT.size else -1
        position += _COUNT.size
        end = position + count * dtype.itemsize
        if count < 0 or end > len(data):
            raise ValueError("its tensors end behind the file")
        yield key, Storage(stored[position:end], dtype)
        position = end


def _storage(persistent: object, storages: Mapping[str, Storage]) -> object:
    if kind := _class_of(persistent):
        return kind
    wanted = storage_id(persistent)
    if wanted.key not in storages:
        raise ValueError("one of its storages is missing")
    whole = storages[wanted.key]
    if wanted.view is None:
        return Storage(whole.data, wanted.dtype)
    start, count = (number * wanted.dtype.itemsize for number in wanted.view)
    return Storage(whole.data[start : start + count], wanted.dtype)
