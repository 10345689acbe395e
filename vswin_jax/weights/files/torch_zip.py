"""Reads the zip files of `torch.save` (torch >= 1.6); tensors are views of the mapped file.

One folder of any name holds `data.pkl`, a pickle whose tensors refer to storages by key;
`data/<key>`, the uncompressed bytes of each storage; and `byteorder`, "little" or "big"
(`torch/serialization.py`, `caffe2/serialize/inline_container.h`).
"""

import struct
import zipfile
import zlib
from mmap import mmap

import numpy as np

from vswin_jax.errors import InputError
from vswin_jax.weights.files.byte_reader import ByteReader
from vswin_jax.weights.files.other_files import describe_other_zip
from vswin_jax.weights.files.pickles import PersistentLoad, read_pickle
from vswin_jax.weights.files.tensors import Storage, TensorBuilder, storage_id, to_little_endian
from vswin_jax.weights.files.zip_directory import expansion_limit, open_zip

_MAX_PICKLE_BYTES = 256 << 20
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_ENCRYPTED = 1


def read_zip(data: mmap, source: str) -> object:
    """Read the object in a zip file of `torch.save`.

    Raises:
      InputError: `torch.save` did not write the zip file.
      ValueError: the file is damaged.
    """
    entries = _ZipEntries(data)
    folder = entries.pickle_folder(source)
    load_storage = _storage_loader(entries, folder)
    pickle = ByteReader(entries.read(f"{folder}/data.pkl"), max_read=_MAX_PICKLE_BYTES)
    builders = TensorBuilder(expansion_limit(len(data))).builders()
    return read_pickle(pickle, builders, load_storage)


def _storage_loader(entries: "_ZipEntries", folder: str) -> PersistentLoad:
    """Return a persistent load that reads each storage of the zip file once."""
    byteorder = f"{folder}/byteorder"
    big_endian = entries.has(byteorder) and entries.read(byteorder) == b"big"
    storages: dict[str, np.ndarray] = {}

    def load(persistent: object) -> Storage:
        found = storage_id(persistent)
        if found.key not in storages:
            stored = entries.view(f"{folder}/data/{found.key}")
            size = found.count * found.dtype.itemsize
            if len(stored) < size:
                raise ValueError(f"a storage has {len(stored)} of its {size} bytes")
            storages[found.key] = to_little_endian(
                stored[:size], found.dtype, big_endian=big_endian
            )
        return Storage(storages[found.key], found.dtype)

    return load


class _ZipEntries:
    """The entries of a zip file, by name."""

    def __init__(self, data: mmap) -> None:
        self.data = data
        self.bytes = np.frombuffer(data, np.uint8)
        self.bytes_left = expansion_limit(len(data))
        self.zip = open_zip(data)
        self.by_name = {info.filename: info for info in self.zip.infolist()}

    def pickle_folder(self, source: str) -> str:
        """Return the folder that holds `data.pkl`."""
        other = describe_other_zip(self.by_name)
        if other is not None:
            raise InputError(f"{source} {other}")
        return next(name.partition("/")[0] for name in self.by_name if name.endswith("/data.pkl"))

    def has(self, name: str) -> bool:
        return name in self.by_name

    def view(self, name: str) -> np.ndarray:
        """Return the bytes `[n]` of an entry; a view of the mapped file unless compressed."""
        info = self.by_name.get(name)
        if info is None:
            raise ValueError(f"its entry {name} is missing")
        if info.flag_bits & _ENCRYPTED:
            raise ValueError("it is encrypted")
        if info.compress_type == zipfile.ZIP_STORED:
            return self._stored(info)
        if info.compress_type != zipfile.ZIP_DEFLATED:
            raise ValueError(f"its entry {name} has an unknown compression")
        return np.frombuffer(self._inflated(info), np.uint8)

    def read(self, name: str) -> bytes:
        """Return a copy of the bytes of a small entry."""
        view = self.view(name)
        if len(view) > _MAX_PICKLE_BYTES:
            raise ValueError(f"its entry {name} has {len(view)} bytes")
        return view.tobytes()

    def _stored(self, info: zipfile.ZipInfo) -> np.ndarray:
        header = self.data[info.header_offset : info.header_offset + _LOCAL_HEADER.size]
        if len(header) < _LOCAL_HEADER.size or not header.startswith(b"PK\x03\x04"):
            raise ValueError(f"its entry {info.filename} is not where it should be")
        _, name_length, extra_length = _LOCAL_HEADER.unpack(header)
        start = info.header_offset + _LOCAL_HEADER.size + name_length + extra_length
        if start + info.file_size > len(self.bytes):
            raise ValueError(f"its entry {info.filename} ends beyond the file")
        return self.bytes[start : start + info.file_size]

    def _inflated(self, info: zipfile.ZipInfo) -> bytes:
        self.bytes_left -= info.file_size
        if self.bytes_left < 0:
            raise ValueError("its entries claim to be many times larger than the file")
        try:
            return self.zip.read(info)
        except (
            zipfile.BadZipFile,
            zlib.error,
            EOFError,
            NotImplementedError,
            struct.error,
        ) as error:
            raise ValueError(f"its entry {info.filename} is damaged: {error}") from None
