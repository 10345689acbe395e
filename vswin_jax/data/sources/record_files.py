"""Random access to the records of many files, ArrayRecord or TFRecord, from many threads at once.

ArrayRecord files know where their records are. A TFRecord file is a chain of lengths and payloads;
following it once, without reading the payloads, gives the same knowledge.
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
# A read asks for one record that may be anywhere, so reading ahead would be in vain.
_READER_OPTIONS = "readahead_buffer_size:0"
_READER_BUFFER = 32768  # bytes
_MOST_OPEN = 1024
_LENGTH = struct.Struct("<QI")  # of the payload, and its checksum
_AROUND = _LENGTH.size + 4  # bytes of a TFRecord that are not payload


@dataclass(frozen=True)
class Stretch:
    """The records `skip` to `skip + take` of a file that holds `total` of them."""

    path: str
    skip: int
    take: int
    total: int


class Reader(Protocol):
    """An open file of records; it closes when nobody refers to it any more."""

    def read(self, position: int) -> bytes:
        """The record at a position in the file."""
        ...


class RecordFiles:
    """Records one after another over the stretches of several files.

    Files are opened when needed, and those not used for longest are closed when many are open.
    Threads may share an instance; it can be pickled.
    """

    def __init__(self, stretches: Sequence[Stretch], file_format: str) -> None:
        self.stretches = tuple(stretches)
        self._format = file_format
        self._ends = list(itertools.accumulate(stretch.take for stretch in stretches))
        self._offsets: dict[str, np.ndarray] = {}
        self._start()

    def _start(self) -> None:
        self._lock = threading.Lock()
        self._open: OrderedDict[str, Reader] = OrderedDict()
        self._most_open = _most_open()

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def read(self, index: int) -> bytes:
        """The record at `index`.

        Raises:
            IndexError: there are fewer records.
            InputError: its file is missing, damaged or not what was expected.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        place = bisect.bisect_right(self._ends, index)
        stretch = self.stretches[place]
        position = index - self._ends[place] + stretch.take + stretch.skip
        return self._reader(stretch).read(position)

    def _reader(self, stretch: Stretch) -> Reader:
        with self._lock:
            reader = self._open.get(stretch.path)
            if reader:
                self._open.move_to_end(stretch.path)
                return reader
        # Opening takes a while: others may read meanwhile, or open the same file.
        opened = self._open_file(stretch)
        with self._lock:
            reader = self._open.setdefault(stretch.path, opened)
            if len(self._open) > self._most_open:
                self._open.popitem(last=False)
        return reader

    def _open_file(self, stretch: Stretch) -> Reader:
        if not os.path.isfile(stretch.path):
            raise missing_file(stretch.path)
        if self._format == "array_record":
            return _ArrayRecordFile(stretch.path, stretch.total)
        # The offsets stay when the file is closed: finding them is most of opening it.
        if stretch.path not in self._offsets:
            self._offsets[stretch.path] = record_offsets(stretch.path, stretch.total)
        return _TfRecordFile(stretch.path, self._offsets[stretch.path])

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k not in ("_lock", "_open", "_most_open")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._start()


class _ArrayRecordFile:
    def __init__(self, path: str, total: int) -> None:
        self._path = path
        self._reader = array_record_module.ArrayRecordReader(
            path, options=_READER_OPTIONS, file_reader_buffer_size=_READER_BUFFER
        )
        # A file that is cut short opens, without any records.
        _check_total(self._reader.num_records(), total, path)

    def read(self, position: int) -> bytes:
        try:
            return self._reader.read([position])[0]
        except RuntimeError as error:
            raise _damaged(self._path, f"record {position}: {error}") from error


class _TfRecordFile:
    def __init__(self, path: str, offsets: np.ndarray) -> None:
        self._path = path
        self._offsets = offsets
        # Unbuffered, and read at explicit places: threads share it without a lock.
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115

    def read(self, position: int) -> bytes:
        start, end = self._offsets[position : position + 2].tolist()
        size = end - start - _AROUND
        record = os.pread(self._file.fileno(), size, start + _LENGTH.size)
        if len(record) < size:
            raise _damaged(self._path, f"record {position} is cut short")
        return record


def record_offsets(path: str, total: int) -> np.ndarray:
    """Where each record of a TFRecord file starts, and its end, int64 [total + 1], in bytes.

    Raises:
        InputError: it is no such file, is damaged, or has another number of records.
    """
    offsets = [0]
    with open(path, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        while offsets[-1] < size:
            payload = _payload(os.pread(file.fileno(), _LENGTH.size, offsets[-1]))
            end = offsets[-1] + _AROUND + payload
            if payload < 0 or end > size:
                raise _damaged(path, f"no whole record starts at byte {offsets[-1]}")
            offsets.append(end)
    _check_total(len(offsets) - 1, total, path)
    return np.array(offsets, np.int64)


def _payload(head: bytes) -> int:
    """The length of the payload that a record's head announces, or -1 if the checksum differs."""
    if len(head) < _LENGTH.size:
        return -1
    length, checksum = _LENGTH.unpack(head)
    return length if checksum == _masked_crc32c(head[:8]) else -1


def _masked_crc32c(data: bytes) -> int:
    """The checksum of TFRecord files (tensorflow/core/lib/hash/crc32c.h)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC32C[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _crc32c_of(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    return byte


_CRC32C = tuple(map(_crc32c_of, range(256)))


def missing_file(path: str) -> InputError:
    """The error for a record file that is not there."""
    return InputError(
        f"Expected the record file {path!r} but it is not there: copy it again, or prepare the "
        "data set again."
    )


def _check_total(found: int, expected: int, path: str) -> None:
    if found != expected:
        raise _damaged(path, f"it has {found} records and not {expected}")


def _damaged(path: str, what: str) -> InputError:
    return InputError(
        f"The record file {path!r} is damaged ({what.splitlines()[0]}): copy it again, or prepare "
        "the data set again."
    )


def _most_open() -> int:
    """How many files an instance keeps open: a quarter of what the system lets a process have."""
    try:
        import resource
    except ImportError:
        return _MOST_OPEN // 4
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return _MOST_OPEN if limit == resource.RLIM_INFINITY else max(1, min(_MOST_OPEN, limit // 4))
