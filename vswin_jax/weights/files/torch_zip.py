"""The zip files of `torch.save` (torch >= 1.6): their entries as views of the mapped file.

One folder, named anyhow, holds `data.pkl`, a pickle whose tensors name their storages by key;
`data/<key>`, the raw bytes of each storage, not compressed; and `byteorder`, "little" or "big"
(`torch/serialization.py`, `caffe2/serialize/inline_container.h`).
"""

import struct
import zipfile
import zlib
from mmap import mmap

import numpy as np

from vswin_jax.errors import InputError
from vswin_jax.weights.files.byte_reader import ByteReader
from vswin_jax.weights.files.pickles import read_pickle
from vswin_jax.weights.files.tensors import Storage, TensorBuilder, native, storage_id

# Room for over 100,000 storages; ZipFile makes an object for each 46 bytes of it.
_LONGEST_DIRECTORY = 16 << 20
_LARGEST_PICKLE = 256 << 20
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_ENCRYPTED = 1
_BAD_ZIP = (zipfile.BadZipFile, NotImplementedError, struct.error, OverflowError)


def allowance(size: int) -> int:
    """The most bytes that what a file of `size` bytes compresses or repeats may come to."""
    return 8 * size + (64 << 20)


def read_zip(data: mmap, source: str) -> object:
    """The object in a zip file of `torch.save`.

    Raises:
      InputError: it is a zip file of something else.
      ValueError: it is damaged; the message says how.
    """
    entries = _Entries(data)
    top = entries.top(source)
    big_endian = entries.has(f"{top}/byteorder") and entries.read(f"{top}/byteorder") == b"big"
    storages: dict[str, np.ndarray] = {}

    def storage_of(persistent: object) -> Storage:
        wanted = storage_id(persistent)
        if wanted.key not in storages:
            stored = entries.view(f"{top}/data/{wanted.key}")
            size = wanted.count * wanted.dtype.itemsize
            if len(stored) < size:
                raise ValueError(f"a storage has {len(stored)} of its {size} bytes")
            storages[wanted.key] = native(stored[:size], wanted.dtype, big_endian=big_endian)
        return Storage(storages[wanted.key], wanted.dtype)

    pickle = ByteReader(entries.read(f"{top}/data.pkl"), _LARGEST_PICKLE)
    return read_pickle(pickle, TensorBuilder(allowance(len(data))).builders(), storage_of)


class _Entries:
    """The entries of a zip file by name."""

    def __init__(self, data: mmap) -> None:
        self.data = data
        self.bytes = np.frombuffer(data, np.uint8)
        self.left = allowance(len(data))
        try:
            self.zip = zipfile.ZipFile(ByteReader(data, _LONGEST_DIRECTORY))
        except _BAD_ZIP as error:
            raise ValueError(f"its table of entries: {error}") from None
        self.by_name = {info.filename: info for info in self.zip.infolist()}

    def top(self, source: str) -> str:
        """The folder of `data.pkl`."""
        for name in self.by_name:
            folder, slash, rest = name.partition("/")
            if slash and rest == "data.pkl":
                return folder
        raise InputError(
            f"{source} is a zip file, but not one of torch.save, which has a data.pkl: give a "
            f"checkpoint that PyTorch wrote."
        )

    def has(self, name: str) -> bool:
        return name in self.by_name

    def view(self, name: str) -> np.ndarray:
        """The bytes [n] of an entry: of the mapped file, unless they are compressed."""
        info = self.by_name.get(name)
        if info is None:
            raise ValueError(f"its entry {name} is missing")
        if info.flag_bits & _ENCRYPTED:
            raise ValueError("it is encrypted")
        if info.compress_type == zipfile.ZIP_STORED:
            return self._stored(info)
        if info.compress_type != zipfile.ZIP_DEFLATED:
            raise ValueError(f"its entry {name} is compressed in an unknown way")
        return np.frombuffer(self._inflated(info), np.uint8)

    def read(self, name: str) -> bytes:
        """A copy of the bytes of a small entry."""
        view = self.view(name)
        if len(view) > _LARGEST_PICKLE:
            raise ValueError(f"its entry {name} has {len(view)} bytes")
        return view.tobytes()

    def _stored(self, info: zipfile.ZipInfo) -> np.ndarray:
        header = self.data[info.header_offset : info.header_offset + _LOCAL_HEADER.size]
        if len(header) < _LOCAL_HEADER.size or not header.startswith(b"PK\x03\x04"):
            raise ValueError(f"its entry {info.filename} is not where it should be")
        _, name_length, extra_length = _LOCAL_HEADER.unpack(header)
        start = info.header_offset + _LOCAL_HEADER.size + name_length + extra_length
        if start + info.file_size > len(self.bytes):
            raise ValueError(f"its entry {info.filename} ends behind the file")
        return self.bytes[start : start + info.file_size]

    def _inflated(self, info: zipfile.ZipInfo) -> bytes:
        self.left -= info.file_size
        if self.left < 0:
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
