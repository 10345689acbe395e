"""Reads any kind of checkpoint as a state_dict; the file type is detected from the content."""

import contextlib
import difflib
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from vswin_jax.checkpoint import load_for_inference
from vswin_jax.errors import InputError
from vswin_jax.weights import zoo
from vswin_jax.weights.files.mapped_file import map_file
from vswin_jax.weights.files.npz_file import is_npz, read_npz
from vswin_jax.weights.files.safetensors_file import is_safetensors, read_safetensors
from vswin_jax.weights.files.torch_file import read_torch_file
from vswin_jax.weights.files.unwrap import UnwrappedState, unwrap
from vswin_jax.weights.files.weight_directory import find_weight_file, read_index
from vswin_jax.weights.layouts.names import to_state_dict


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

    A directory of Hugging Face gives the file in it that holds the weights or lists their shards,
    so a directory is always a run or checkpoint of vswin_jax.

    Raises:
      InputError: there is no such path and no released checkpoint of this name, or the download
        fails.
    """
    text = os.fspath(source)
    if os.path.exists(text):
        return find_weight_file(Path(text)) or Path(text)
    if zoo.is_url(text):
        return zoo.fetch(text)
    if os.sep in text or Path(text).suffix not in ("", ".pth"):
        raise InputError(
            f"There is no checkpoint at {text}{_near(text)}: give an existing file or directory, a "
            f"released checkpoint's name, or a URL."
        )
    try:
        return zoo.fetch(zoo.find_released(text).name)
    except InputError as error:
        raise InputError(f"There is no checkpoint at {text}, and: {error}") from None


def _near(path: str) -> str:
    """Return a phrase with the nearest name in the directory of `path`, if there is one."""
    parent, name = os.path.split(path.rstrip(os.sep))
    with contextlib.suppress(OSError):
        near = difflib.get_close_matches(name, os.listdir(parent or os.curdir), n=1)
        return f" (did you mean {os.path.join(parent, near[0])}?)" if near else ""
    return ""


def read_state_dict(
    source: str | os.PathLike[str], prefix: str | None = None
) -> Mapping[str, np.ndarray]:
    """Read the state_dict in `source`, with its own names and dtypes, without wrappers' prefixes.

    Args:
      source: a PyTorch, safetensors or npz file, a Hugging Face directory or the index of its
        shards, a checkpoint directory or workdir of vswin_jax, a released checkpoint's name, or a
        URL.
      prefix: components before the names of the Swin to take, if a file has several.

    Returns:
      Arrays by name, some of which may be read-only views of the file.

    Raises:
      InputError: there is no such source, or it cannot be read.
    """
    path = locate(source)
    if path.is_dir():
        return to_state_dict(load_for_inference(path)[0])
    return read_weight_file(path, prefix).tensors


def read_weight_file(path: Path, prefix: str | None = None) -> UnwrappedState:
    """Read the model in a file of any format, or in the shards of an index.

    `prefix` has components before the names of the Swin to take, if there are several.

    Raises:
      InputError: the file cannot be read, or holds no state_dict, or several Swins.
    """
    shards = read_index(path) if path.suffix == ".json" else None
    loaded = _read_tensors(path) if shards is None else _read_shards(shards, path)
    return unwrap(loaded, str(path), prefix)


def _read_tensors(path: Path) -> object:
    data = map_file(path)
    if is_safetensors(data[:16], len(data)):
        return read_safetensors(path)
    return read_npz(data, path) if is_npz(data) else read_torch_file(path)


def _read_shards(shards: Mapping[str, list[str]], index: Path) -> dict[str, object]:
    """Return the tensors of all files beside `index`, which names the tensors of each one."""
    tensors: dict[str, object] = {}
    for shard, names in shards.items():
        path = index.parent / shard
        if not path.exists():
            raise InputError(
                f"{index} names the file {shard}, which is not beside it: download all of its "
                f"{len(shards)} files."
            )
        loaded = _read_tensors(path)
        found = loaded if isinstance(loaded, Mapping) else {}
        missing = [name for name in names if name not in found]
        if missing:
            raise InputError(
                f"{path} has no {missing[0]!r}, which {index.name} expects in it: download both "
                f"again."
            )
        tensors.update(found)
    return tensors
