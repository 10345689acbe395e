"""Reads safetensors files into NumPy arrays of every dtype of the format that NumPy can hold.

The safetensors library validates the file. Its own reader is not used: it keeps the whole file
mapped beside the copies of its tensors (twice the memory), and refuses bfloat16 with NumPy.
"""

import json
import os
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from vswin_jax.errors import InputError

# https://github.com/huggingface/safetensors#format; all little-endian.
_DTYPES = {
    "BOOL": "?",
    "U8": "u1",
    "I8": "i1",
    "U16": "<u2",
    "I16": "<i2",
    "U32": "<u4",
    "I32": "<i4",
    "U64": "<u8",
    "I64": "<i8",
    "F16": "<f2",
    "F32": "<f4",
    "F64": "<f8",
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
}


def is_safetensors(start: bytes, size: int) -> bool:
    """Return True if a file of `size` bytes that begins with `start` has a safetensors header."""
    return start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= size


def read_safetensors(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Return the tensors of a file by name.

    Each tensor has its own memory, so deleting one array frees it.

    Raises:
      InputError: the file is damaged, or has a dtype that NumPy cannot hold.
    """
    try:
        with safe_open(path, framework="np"):
            pass
    except SafetensorError as error:
        raise InputError(
            f"{path} is not a readable safetensors file ({error}): get it again."
        ) from None
    with Path(path).open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return {name: _read(path, name, entry, 8 + length) for name, entry in header.items()}


def _read(path: str | os.PathLike[str], name: str, entry: dict, data: int) -> np.ndarray:
    if entry["dtype"] not in _DTYPES:
        raise InputError(
            f"{path} has {name!r} in {entry['dtype']}, which NumPy cannot hold: save it in one of "
            f"{', '.join(_DTYPES)}."
        )
    dtype, (begin, end) = np.dtype(_DTYPES[entry["dtype"]]), entry["data_offsets"]
    count = (end - begin) // dtype.itemsize
    return np.fromfile(path, dtype, count, offset=data + begin).reshape(entry["shape"])
