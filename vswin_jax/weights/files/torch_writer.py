"""Writes the zip files of `torch.save` without torch, in the memory of one tensor.

The entries are those of `torch/serialization.py` and `caffe2/serialize/inline_container.cc`:
`data.pkl`, a pickle of protocol 2 whose tensors refer to storages by number; `byteorder`; the raw
bytes of each storage, which begin at a multiple of 64 bytes so that `torch.load(..., mmap=True)`
can use them in place; and `version`. `torch.load(..., weights_only=True)` reads it. Equal tensors
give equal bytes.
"""

import pickle
import struct
import zipfile
from collections.abc import Callable, Iterable, Mapping
from typing import BinaryIO

import numpy as np

_FOLDER = "archive"
_ALIGNMENT = 64
_LOCAL_HEADER_BYTES = 30
_ZIP64_EXTRA_BYTES = 20
_EPOCH = (1980, 1, 1, 0, 0, 0)
_UNIX = 3

# The classes of PyTorch's storages, by NumPy's names of their dtypes.
STORAGES = {
    "float64": "DoubleStorage",
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "int16": "ShortStorage",
    "int8": "CharStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
}


def write_torch_zip(
    file: BinaryIO,
    state: Mapping[str, np.ndarray],
    wrapper: str | None,
    write_tensor: Callable[[BinaryIO, np.ndarray], None],
) -> None:
    """Write a state_dict, itself or as the entry `wrapper` of a dict.

    Args:
      file: open for writing, at its beginning.
      state: tensors by name, of the dtypes in `STORAGES`.
      wrapper: such as "state_dict"; None for a plain state_dict.
      write_tensor: writes the little-endian bytes of a tensor in C order.
    """
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        _write_bytes(archive, "data.pkl", _pickle(state, wrapper))
        _write_bytes(archive, "byteorder", b"little")
        for number, value in enumerate(state.values()):
            with _open(archive, f"data/{number}", value.nbytes) as entry:
                write_tensor(entry, value)
        _write_bytes(archive, "version", b"3\n")


def _write_bytes(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    with _open(archive, name, len(content)) as entry:
        entry.write(content)


def _open(archive: zipfile.ZipFile, name: str, size: int) -> BinaryIO:
    info = zipfile.ZipInfo(f"{_FOLDER}/{name}", _EPOCH)
    info.create_system = _UNIX
    info.file_size = size
    is_large = size >= zipfile.ZIP64_LIMIT
    header = _LOCAL_HEADER_BYTES + len(info.filename) + _ZIP64_EXTRA_BYTES * is_large
    info.extra = _padding(archive.fp.tell() + header)
    return archive.open(info, "w", force_zip64=is_large)


def _padding(start: int) -> bytes:
    """Return the extra field after which content that would begin at `start` is aligned."""
    # PyTorch marks its padding with the same letters.
    count = -(start + 4) % _ALIGNMENT
    return struct.pack("<2sH", b"FB", count) + b"Z" * count


def _pickle(state: Mapping[str, np.ndarray], wrapper: str | None) -> bytes:
    items = b"".join(
        _text(name) + _tensor(number, value) for number, (name, value) in enumerate(state.items())
    )
    content = _EMPTY_ORDERED_DICT + pickle.MARK + items + pickle.SETITEMS
    if wrapper is not None:
        content = pickle.EMPTY_DICT + _text(wrapper) + content + pickle.SETITEM
    return pickle.PROTO + b"\x02" + content + pickle.STOP


def _tensor(number: int, value: np.ndarray) -> bytes:
    """Return a call of `_rebuild_tensor_v2` on all of storage `number`."""
    kind = _global("torch", STORAGES[value.dtype.name])
    storage = (_text("storage"), kind, _text(str(number)), _text("cpu"), _integer(value.size))
    strides = np.cumprod([1, *value.shape[:0:-1]], dtype=np.int64)[::-1][: value.ndim]
    requires_grad, hooks = pickle.NEWFALSE, _EMPTY_ORDERED_DICT
    arguments = (
        *(_tuple(storage) + pickle.BINPERSID, _integer(0)),
        *(_tuple(map(_integer, value.shape)), _tuple(map(_integer, strides.tolist()))),
        *(requires_grad, hooks),
    )
    return _global("torch._utils", "_rebuild_tensor_v2") + _tuple(arguments) + pickle.REDUCE


def _text(text: str) -> bytes:
    encoded = text.encode()
    return pickle.BINUNICODE + struct.pack("<I", len(encoded)) + encoded


def _integer(number: int) -> bytes:
    if number < 1 << 31:
        return pickle.BININT + struct.pack("<i", number)
    return pickle.LONG1 + b"\x08" + struct.pack("<q", number)


def _tuple(items: Iterable[bytes]) -> bytes:
    return pickle.MARK + b"".join(items) + pickle.TUPLE


def _global(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


_EMPTY_ORDERED_DICT = _global("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE
