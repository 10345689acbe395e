"""Reads npz files of `numpy.savez` into arrays."""

import os
import zipfile
import zlib
from collections.abc import Mapping
from mmap import mmap

import numpy as np

from vswin_jax.errors import InputError
from vswin_jax.weights.files.byte_reader import ByteReader
from vswin_jax.weights.files.pickles import OpaqueObject
from vswin_jax.weights.files.zip_directory import MAX_DIRECTORY_BYTES, expansion_limit, open_zip

# The exceptions of `zipfile` and of `numpy.lib.format` for damaged files.
_UNREADABLE = (
    ValueError,
    OSError,
    EOFError,
    KeyError,
    MemoryError,
    NotImplementedError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)


def is_npz(data: mmap) -> bool:
    """Return True for a zip file that holds nothing but arrays."""
    try:
        names = open_zip(data).namelist() if data[:2] == b"PK" else [""]
    except ValueError:
        return False
    return all(name.endswith(".npy") for name in names)


def read_npz(data: mmap, path: str | os.PathLike[str]) -> dict[str, object]:
    """Return the arrays of a file by name; arrays of pickled objects become an `OpaqueObject`.

    Raises:
      InputError: the file is damaged.
    """
    try:
        total = sum(info.file_size for info in open_zip(data).infolist())
        if total > expansion_limit(len(data)):
            raise ValueError("its arrays claim to be many times larger than the file")
        with np.load(ByteReader(data, max_read=MAX_DIRECTORY_BYTES), allow_pickle=False) as arrays:
            return {name: _read_array(arrays, name) for name in arrays.files}
    except _UNREADABLE as error:
        reason = " ".join(str(error)[:200].split())
        raise InputError(f"{path} is not a readable npz file ({reason}): get it again.") from None


def _read_array(arrays: Mapping[str, np.ndarray], name: str) -> object:
    try:
        return arrays[name]
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise
        return OpaqueObject("numpy.ndarray")  # a user's settings, saved beside the tensors
