"""Reads files of `torch.save` without torch: the zip files since torch 1.6 and the legacy files.

Also finds the state_dict in the object that a file holds.
"""

import mmap
import os
from collections.abc import Mapping

import numpy as np

from vswin_jax.errors import InputError
from vswin_jax.weights.files.pickles import OpaqueObject
from vswin_jax.weights.files.torch_legacy import read_legacy
from vswin_jax.weights.files.torch_zip import read_zip

# The keys under which trainers save the state_dict, in order of preference: averaged weights last.
_WRAPPER_KEYS = (
    "state_dict",
    "model",
    "model_state",
    "model_state_dict",
    "module",
    "net",
    "params",
    "weights",
    "state_dict_ema",
    "model_ema",
    "ema_state_dict",
)
# DistributedDataParallel and torch.compile prepend these to every name.
_PREFIXES = ("module.", "_orig_mod.")
_REMEDY = "download it or save it again"
# Readers by the first bytes of the files that they read.
_READERS = {b"PK\x03\x04": read_zip, b"\x80": read_legacy}


def read_torch_file(path: str | os.PathLike) -> object:
    """Read the object in a file of `torch.save`, with NumPy arrays in place of tensors.

    The arrays are read-only views of the mapped file, so bytes are read on first access. bfloat16
    and float8 dtypes are those of `ml_dtypes`. Anything but tensors, dicts, lists, tuples, text,
    bytes and numbers becomes an `OpaqueObject`: nothing that the file names is imported or called.

    Raises:
      InputError: there is no such file, `torch.save` did not write it, or it is damaged.
    """
    data = _map(path)
    reader = next((read for magic, read in _READERS.items() if data[: len(magic)] == magic), None)
    if reader is None:
        raise InputError(f"{path} {_describe_other_file(data)}")
    try:
        return reader(data, str(path))
    except InputError:
        raise
    except ValueError as error:
        reason = " ".join(str(error)[:200].split())
        raise InputError(f"{path} is cut short or damaged ({reason}): {_REMEDY}.") from None


def _map(path: str | os.PathLike) -> mmap.mmap:
    try:
        with open(path, "rb") as file:
            if not os.fstat(file.fileno()).st_size:
                raise InputError(f"{path} is empty: {_REMEDY}.")
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        raise InputError(f"There is no file {path}: give the path of a checkpoint.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): give a file.") from None


def _describe_other_file(data: mmap.mmap) -> str:
    """Return the end of an error about a file that `torch.save` did not write."""
    start = data[:512]
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith(b"version https://git-lfs"):
        return "is a pointer of git-lfs, not the file itself: run `git lfs pull` in its repository."
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return (
            "is a web page, not a checkpoint: give the URL of the file, not of the page about it."
        )
    if start[257:262] == b"ustar":
        return (
            "is a tar file, as PyTorch before 0.1.10 wrote: load it with torch and save it again "
            "with torch.save."
        )
    return (
        f"is not a file of torch.save: expected a zip file or a pickle, but it starts with "
        f"{start[:16]!r}; give a checkpoint of PyTorch."
    )


def extract_state_dict(loaded: object, source: str) -> dict[str, np.ndarray]:
    """Return the tensors of a model by name, from the result of `read_torch_file`.

    The state_dict is `loaded` itself or the value of a common key (`state_dict`, `model`, ...);
    averaged weights (`state_dict_ema`, ...) are used only if there are no others. A `module.` or
    `_orig_mod.` that begins every name is removed.

    Raises:
      InputError: no state_dict is found. The message names `source`.
    """
    found = _find_state_dict(loaded, depth=3)
    if not found:
        raise InputError(
            f"{source} holds no state_dict: expected a dict of tensors, itself or under one of "
            f"{', '.join(_WRAPPER_KEYS[:5])}, but it is {_summarize(loaded)}; save "
            f"model.state_dict()."
        )
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in found):
            found = {name.removeprefix(prefix): value for name, value in found.items()}
    return found


def _find_state_dict(loaded: object, depth: int) -> dict[str, np.ndarray]:
    if not isinstance(loaded, Mapping) or not depth:
        return {}
    for key in _WRAPPER_KEYS:
        if inner := _find_state_dict(loaded.get(key), depth - 1):
            return inner
    return {
        name: value
        for name, value in loaded.items()
        if isinstance(name, str) and isinstance(value, np.ndarray)
    }


def _summarize(loaded: object) -> str:
    if isinstance(loaded, OpaqueObject):
        return f"an object of {loaded.name}"
    if not isinstance(loaded, Mapping):
        return f"a {type(loaded).__name__}"
    keys = [str(key)[:60] for key in loaded if isinstance(key, str | int)]
    more = f" and {len(keys) - 8} more" if len(keys) > 8 else ""
    return f"a dict with the keys {', '.join(keys[:8]) or '(none)'}{more}"
