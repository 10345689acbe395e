"""Exports parameters as a PyTorch state_dict and writes safetensors files and those of torch."""

import contextlib
import json
import os
import struct
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from vswin_jax.attention import Size, table_rows
from vswin_jax.errors import InputError
from vswin_jax.runtime.atomic_write import atomic_write
from vswin_jax.weights.files.torch_writer import STORAGES, write_torch_zip
from vswin_jax.weights.layouts.layouts import from_canonical
from vswin_jax.weights.layouts.names import Params, to_state_dict

_TABLE = ".relative_position_bias_table"
_INDEX = ".relative_position_index"

# The safetensors names of NumPy's dtypes.
_DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}


def export_state_dict(
    params: Params, layout: str, window_size: Size, *, buffers: bool = True
) -> dict[str, np.ndarray]:
    """Convert a parameter tree to a PyTorch state_dict of views, if possible.

    Args:
      params: the tree of `model.init(...)["params"]`.
      layout: "original", "mmaction2" or "torchvision".
      window_size: the model's (time, height, width) in tokens.
      buffers: include the index `[N, N]` of every block, which a strict `load_state_dict` requires.

    Raises:
      InputError: an unknown layout, or a window that does not fit the tables.
    """
    state = to_state_dict(params)
    _check_window(state, window_size)
    if buffers:
        state = _with_index_buffers(state, relative_position_index(window_size))
    return from_canonical(state, layout)


def _with_index_buffers(
    state: Mapping[str, np.ndarray], index: np.ndarray
) -> dict[str, np.ndarray]:
    """Add the index buffer of each block after its table, as in PyTorch's order."""
    result = {}
    for name, value in state.items():
        result[name] = value
        if name.endswith(_TABLE):
            result[name.removesuffix(_TABLE) + _INDEX] = index
    return result


def relative_position_index(window_size: Size) -> np.ndarray:
    """Return `[N, N]` int64, the table's row for each query and key of a window of N tokens.

    It equals the buffer `relative_position_index` of the reference's `WindowAttention3D`.
    """
    tokens = np.indices(window_size).reshape(3, -1)
    index = np.zeros((1, 1), np.int64)
    for position, extent in zip(tokens, window_size, strict=True):
        offset = position[:, None] - position[None]
        index = index * (2 * extent - 1) + offset + extent - 1
    return index


def _check_window(state: Mapping[str, np.ndarray], window_size: Size) -> None:
    for name, value in state.items():
        if name.endswith(_TABLE) and value.shape[0] != table_rows(window_size):
            raise InputError(
                f"{name} has {value.shape[0]} rows but windows of {tuple(window_size)} need "
                f"{table_rows(window_size)}: give the window_size of the model."
            )


def write_safetensors(
    path: str | os.PathLike[str],
    state: Mapping[str, np.ndarray],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a state_dict as a safetensors file atomically; an existing file is replaced.

    One tensor at a time is made contiguous: the writer of the safetensors library copies all of
    them at once. The file's metadata is `metadata` and `format`: "pt", which PyTorch loaders
    require.

    Raises:
      InputError: a dtype is unsupported, or the file cannot be written.
    """
    _check_dtypes(state, _DTYPES, "a safetensors file")
    # The widest dtypes come first, as in the library's own files, so that each tensor is aligned.
    order = sorted(state, key=lambda name: (-state[name].dtype.itemsize, name))
    header = _make_header(state, order, {"format": "pt", **(metadata or {})})
    with _atomic_file(Path(path)) as file:
        file.write(struct.pack("<Q", len(header)) + header)
        for name in order:
            _write_tensor(file, state[name])


def write_torch(
    path: str | os.PathLike[str], state: Mapping[str, np.ndarray], wrapper: str | None = None
) -> None:
    """Write a state_dict as `torch.save` does, atomically; an existing file is replaced.

    `torch.load(path, weights_only=True)` returns it, or with a `wrapper` such as "state_dict" a
    dict that holds it under that key. One tensor at a time is made contiguous.

    Raises:
      InputError: a dtype is unsupported, or the file cannot be written.
    """
    _check_dtypes(state, STORAGES, "a file of torch")
    with _atomic_file(Path(path)) as file:
        write_torch_zip(file, state, wrapper, _write_tensor)


def _check_dtypes(state: Mapping[str, np.ndarray], known: Mapping[str, str], kind: str) -> None:
    for name, value in state.items():
        if value.dtype.name not in known:
            raise InputError(
                f"{name} is {value.dtype.name}, which {kind} cannot hold: convert it to one of "
                f"{', '.join(known)}."
            )


@contextlib.contextmanager
def _atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a file open for writing that gets the name `path` when the block succeeds."""
    # A random name, because several processes may write the same file.
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        with atomic_write(path, partial=partial), partial.open("xb") as file:
            yield file
    except OSError as error:
        raise InputError(
            f"{path} cannot be written: {error.strerror or error}; give a path in an existing "
            f"directory with enough free space."
        ) from None


def _make_header(
    state: Mapping[str, np.ndarray], order: list[str], metadata: Mapping[str, str]
) -> bytes:
    entries: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for name in order:
        value = state[name]
        start, end = end, end + value.nbytes
        dtype, shape = _DTYPES[value.dtype.name], list(value.shape)
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % 8)


def _write_tensor(file: BinaryIO, value: np.ndarray) -> None:
    # The format is little-endian.
    dtype = value.dtype.newbyteorder("<") if value.dtype.byteorder == ">" else value.dtype
    contiguous = np.ascontiguousarray(value, dtype)
    file.write(contiguous.reshape(-1).view(np.uint8).data)
