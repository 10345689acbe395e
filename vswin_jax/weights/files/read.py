"""A checkpoint of any kind as a state_dict: what a file is, is seen in its content."""

import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from vswin_jax.checkpoint import load_for_inference
from vswin_jax.errors import InputError
from vswin_jax.weights import zoo
from vswin_jax.weights.files.safetensors_file import looks_like_safetensors, read_safetensors
from vswin_jax.weights.files.torch_file import read_torch_file, state_dict_of
from vswin_jax.weights.layouts.names import to_state_dict

_UNREADABLE_NPZ = (
    *(ValueError, OSError, EOFError, KeyError, MemoryError, NotImplementedError),
    *(zipfile.BadZipFile, zlib.error),
)


def is_there(source: str | os.PathLike[str]) -> bool:
    """Whether `source` is a path where something is, a URL, or a released checkpoint's name."""
    text = os.fspath(source)
    if os.path.exists(text) or zoo.is_url(text):
        return True
    try:
        zoo.find(text)
    except InputError:
        return False
    return True


def locate(source: str | os.PathLike[str]) -> Path:
    """The local path of `source`, which is downloaded if it is a name or a URL.

    Raises:
      InputError: nothing is there, and it is no released checkpoint's name; or the download fails.
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
        return zoo.fetch(zoo.find(text).name)
    except InputError as error:
        raise InputError(f"There is no checkpoint at {text}, and: {error}") from None


def read_state(source: str | os.PathLike[str]) -> Mapping[str, np.ndarray]:
    """The state_dict in `source`, under its own names and in its own dtypes.

    Args:
      source: a file of torch, a safetensors or an npz file, a checkpoint directory of ours, a
        released checkpoint's name, or a URL.

    Returns:
      Arrays that may be read-only views of the file.

    Raises:
      InputError: nothing there, or nothing that can be read.
    """
    path = locate(source)
    if path.is_dir():
        return to_state_dict(load_for_inference(path)[0])
    with path.open("rb") as file:
        start = file.read(16)
    if looks_like_safetensors(start, path.stat().st_size):
        return read_safetensors(path)
    if _is_npz(path, start):
        return _read_npz(path)
    return state_dict_of(read_torch_file(path), str(path))


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
