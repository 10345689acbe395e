"""Random access to the records of many ArrayRecord or TFRecord files, from many threads at once.

An ArrayRecord file contains an index of its records. A TFRecord file is a chain of lengths and
payloads; following the chain once, without reading the payloads, gives the same index.
"""

import bisect
import itertools
import os
import struct
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from array_record.python import array_record_module

from vswin_jax.errors import InputError

FORMATS = ("array_record", "tfrecord")
# Reads are random and of one record each, so reading ahead would only waste bandwidth.
_READER_OPTIONS = "readahead_buffer_size:0"
_READER_BUFFER = 32768  # bytes
_MAX_OPEN_FILES = 1024
_TFRECORD_HEADER = struct.Struct("<QI")  # the length of the payload, and the length's checksum
_TFRECORD_OVERHEAD = _TFRECORD_HEADER.size + 4  # bytes: the header, and the payload's checksum


@dataclass(frozen=True)
class FileSlice:
    """The records `skip` to `skip + take` of a file that holds `num_records` of them."""

    path: str
    skip: int
    take: int
    num_records: int


class RecordReader(Protocol):
    """An open file of records; it closes when the last reference to it is gone."""

    def read(self, position: int) -> bytes:
        """Return the record at a position in the file."""
        ...


class RecordFiles:
    """The concatenated records of slices of several files.

    Files are opened on first use; above a limit, the least recently used one is closed. Threads may
    share an instance, and it can be pickled.
    """

    def __init__(self, slices: Sequence[FileSlice], file_format: str) -> None:
        self.slices = tuple(slices)
        self._format = file_format
        self._ends = list(itertools.accumulate(part.take for part in slices))
        self._offsets: dict[str, np.ndarray] = {}
        self._init_readers()

    def _init_readers(self) -> None:
        self._lock = threading.Lock()
        self._readers: OrderedDict[str, RecordReader] = OrderedDict()
        self._max_open = _max_open_files()

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def read(self, index: int) -> bytes:
        """Return the record at `index`.

        Raises:
          IndexError: there are fewer records.
          InputError: its file is missing, is damaged, or has another number of records.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        number = bisect.bisect_right(self._ends, index)
        part = self.slices[number]
        position = index - self._ends[number] + part.take + part.skip
        return self._reader(part).read(position)

    def _reader(self, part: FileSlice) -> RecordReader:
        with self._lock:
            reader = self._readers.get(part.path)
            if reader:
                self._readers.move_to_end(part.path)
                return reader
        # Opened without the lock, because it takes long: other threads can read meanwhile. If one
        # of them opens the same file, the first reader to be registered is used by all.
        opened = self._open_file(part)
        with self._lock:
            reader = self._readers.setdefault(part.path, opened)
            if len(self._readers) > self._max_open:
                # Threads that still read from this file keep it open by their reference.
                self._readers.popitem(last=False)
        return reader

    def _open_file(self, part: FileSlice) -> RecordReader:
        if not os.path.isfile(part.path):
            raise missing_file(part.path)
        if self._format == "array_record":
            return _ArrayRecordFile(part.path, part.num_records)
        # Offsets outlive the open file, because finding them takes most of the time of opening it.
        if part.path not in self._offsets:
            self._offsets[part.path] = record_offsets(part.path, part.num_records)
        return _TfRecordFile(part.path, self._offsets[part.path])

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k not in ("_lock", "_readers", "_max_open")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._init_readers()


class _ArrayRecordFile:
    def __init__(self, path: str, num_records: int) -> None:
        self._path = path
        self._reader = array_record_module.ArrayRecordReader(
            path, options=_READER_OPTIONS, file_reader_buffer_size=_READER_BUFFER
        )
        # A truncated file opens without an error and has no records.
        _check_num_records(self._reader.num_records(), num_records, path)

    def read(self, position: int) -> bytes:
        try:
            return self._reader.read([position])[0]
        except RuntimeError as error:
            raise _damaged(self._path, f"record {position}: {error}") from error


class _TfRecordFile:
    def __init__(self, path: str, offsets: np.ndarray) -> None:
        self._path = path
        self._offsets = offsets
        # Unbuffered and read with pread, which has no shared file position: threads need no lock.
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115

    def read(self, position: int) -> bytes:
        start, end = self._offsets[position : position + 2].tolist()
        size = end - start - _TFRECORD_OVERHEAD
        record = os.pread(self._file.fileno(), size, start + _TFRECORD_HEADER.size)
        if len(record) < size:
            raise _damaged(self._path, f"record {position} is cut short")
        return record


def record_offsets(path: str, num_records: int) -> np.ndarray:
    """Find the byte offsets of a TFRecord file's N records and of its end, int64 [N + 1].

    Raises:
      InputError: it is not a TFRecord file, is damaged, or N is not `num_records`.
    """
    offsets = [0]
    with open(path, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        while offsets[-1] < size:
            header = os.pread(file.fileno(), _TFRECORD_HEADER.size, offsets[-1])
            length = _payload_length(header)
            end = offsets[-1] + _TFRECORD_OVERHEAD + length
            if length < 0 or end > size:
                raise _damaged(path, f"no whole record starts at byte {offsets[-1]}")
            offsets.append(end)
    _check_num_records(len(offsets) - 1, num_records, path)
    return np.array(offsets, np.int64)


def _payload_length(header: bytes) -> int:
    """Return the length that a record's header states, or -1 if its checksum is wrong."""
    if len(header) < _TFRECORD_HEADER.size:
        return -1
    length, checksum = _TFRECORD_HEADER.unpack(header)
    return length if checksum == _masked_crc32c(header[:8]) else -1


def _masked_crc32c(data: bytes) -> int:
    """Compute the checksum of TFRecord files (tensorflow/core/lib/hash/crc32c.h)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC32C[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _crc32c_of_byte(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    return byte


_CRC32C = tuple(map(_crc32c_of_byte, range(256)))


def missing_file(path: str) -> InputError:
    """Return the error for a record file that does not exist."""
    return InputError(
        f"Expected the record file {path!r} but it is not there: copy it again, or prepare the "
        "data set again."
    )


def _check_num_records(found: int, expected: int, path: str) -> None:
    if found != expected:
        raise _damaged(path, f"it has {found} records and not {expected}")


def _damaged(path: str, cause: str) -> InputError:
    return InputError(
        f"The record file {path!r} is damaged ({cause.splitlines()[0]}): copy it again, or prepare "
        "the data set again."
    )


def _max_open_files() -> int:
    """Return how many files an instance may keep open: a quarter of the process's limit."""
    try:
        import resource
    except ImportError:
        return _MAX_OPEN_FILES // 4
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY:
        return _MAX_OPEN_FILES
    return max(1, min(_MAX_OPEN_FILES, limit // 4))
