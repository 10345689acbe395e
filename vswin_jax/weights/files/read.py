"""Reads any kind of checkpoint as a state_dict; the file type is detected from the content."""

import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from vswin_jax.checkpoint import load_for_inference
from vswin_jax.errors import InputError
from vswin_jax.weights import zoo
from vswin_jax.weights.files.safetensors_file import is_safetensors, read_safetensors
from vswin_jax.weights.files.torch_file import extract_state_dict, read_torch_file
from vswin_jax.weights.layouts.names import to_state_dict

# The exceptions of `zipfile` and `np.load` for damaged files.
_UNREADABLE_NPZ = (
    ValueError,
    OSError,
    EOFError,
    KeyError,
    MemoryError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
)


def weights_exist(source: str | os.PathLike[str]) -> bool:
    """Return True if `source` is an existing path, a URL or a released checkpoint's name."""
    text = os.fspath(source)
    if os.path.exists(text) or zoo.is_url(text):
        return True
    try:
        zoo.find_released(text)
    except InputError:
        return False
    return True


def locate(source: str | os.PathLike[str]) -> Path:
    """Return the local path of `source`, which is downloaded if it is a name or a URL.

    Raises:
      InputError: there is no such path and no released checkpoint of this name, or the download
        fails.
    """
    text = os.fspath(source)
    if os.path.exists(text):
        return Path(text)
    if zoo.is_url(text):
        return zoo.fetch(text)
    if os.sep in text or Path(text).suffix not in ("", ".pth"):
        raise InputError(
            f"There is no checkpoint at {text}: give an existing file or directory, a released "
            f"checkpoint's name, or a URL."
        )
    try:
        return zoo.fetch(zoo.find_released(text).name)
    except InputError as error:
        raise InputError(f"There is no checkpoint at {text}, and: {error}") from None


def read_state_dict(source: str | os.PathLike[str]) -> Mapping[str, np.ndarray]:
    """Read the state_dict in `source`, with its own names and dtypes.

    Args:
      source: a PyTorch, safetensors or npz file, a checkpoint directory or workdir of vswin_jax,
        a released checkpoint's name, or a URL.

    Returns:
      Arrays by name, some of which may be read-only views of the file.

    Raises:
      InputError: there is no such source, or it cannot be read.
    """
    path = locate(source)
    return to_state_dict(load_for_inference(path)[0]) if path.is_dir() else _read_file(path)


def _read_file(path: Path) -> Mapping[str, np.ndarray]:
    with path.open("rb") as file:
        start = file.read(16)
    if is_safetensors(start, path.stat().st_size):
        return read_safetensors(path)
    if _is_npz(path, start):
        return _read_npz(path)
    return extract_state_dict(read_torch_file(path), str(path))


def _is_npz(path: Path, start: bytes) -> bool:
    if not start.startswith(b"PK") or not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return all(name.endswith(".npy") for name in archive.namelist())
    except _UNREADABLE_NPZ:
        return False


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except _UNREADABLE_NPZ as error:
        raise InputError(f"{path} is not a readable npz file ({error}): get it again.") from None
