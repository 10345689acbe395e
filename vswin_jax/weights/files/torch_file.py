"""Files that `torch.save` wrote, read without torch: the zip files since 1.6 and the legacy ones.

Then the state_dict inside what they hold, under the names that trainers give it.
"""

import mmap
import os
from collections.abc import Mapping

import numpy as np

from vswin_jax.errors import InputError
from vswin_jax.weights.files.pickles import Foreign
from vswin_jax.weights.files.torch_legacy import read_legacy
from vswin_jax.weights.files.torch_zip import read_zip

# Where trainers keep the state_dict, the first found first; averages only when nothing else is.
_WRAPPERS = (
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
# What DistributedDataParallel and torch.compile put before every name.
_PREFIXES = ("module.", "_orig_mod.")
_WHAT_TO_DO = "download it or save it again"


def read_torch_file(path: str | os.PathLike) -> object:
    """The object in a file of `torch.save`, with NumPy arrays for its tensors.

    The arrays are views of the mapped file and cannot be written to; bytes are read when they
    are looked at. bfloat16 and the float8 dtypes are those of `ml_dtypes`. Everything that is no
    tensor, dict, list, tuple, text, bytes or number is a `Foreign`, and nothing is imported or
    called, whatever the file says.

    Raises:
      InputError: there is no such file, `torch.save` did not write it, or it is damaged.
    """
    data = _map(path)
    try:
        if data[:4] == b"PK\x03\x04":
            return read_zip(data, str(path))
        if data[:1] == b"\x80":
            return read_legacy(data, str(path))
    except InputError:
        raise
    except ValueError as error:
        reason = " ".join(str(error)[:200].split())
        raise InputError(f"{path} is cut short or damaged ({reason}): {_WHAT_TO_DO}.") from None
    raise InputError(f"{path} {_what_else(data)}")


def _map(path: str | os.PathLike) -> mmap.mmap:
    try:
        with open(path, "rb") as file:
            if not os.fstat(file.fileno()).st_size:
                raise InputError(f"{path} is empty: {_WHAT_TO_DO}.")
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        raise InputError(f"There is no file {path}: give the path of a checkpoint.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): give a file.") from None


def _what_else(data: mmap.mmap) -> str:
    """What a file is that is no torch file, and what to do about it, by its first bytes."""
    start = data[:512]
    if start.startswith(b"version https://git-lfs"):
        return (
            "is a pointer of git-lfs, not the file itself: run `git lfs pull` where it came from."
        )
    if start.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return (
            "is a web page, not a checkpoint: download the file behind the link, not the page "
            "about it."
        )
    if start[257:262] == b"ustar":
        return (
            "is a tar file, as PyTorch before 0.1.10 wrote: load it with torch and save it again "
            "with torch.save."
        )
    return (
        f"is no file of torch.save: expected a zip file or a pickle, but it starts with "
        f"{start[:16]!r}; give a checkpoint of PyTorch."
    )


def state_dict_of(loaded: object, source: str) -> dict[str, np.ndarray]:
    """The tensors of a model in what `read_torch_file` gave, under their names.

    They are `loaded` itself or lie under one of the usual keys (`state_dict`, `model`, ...); a
    `module.` or `_orig_mod.` before every name is taken away. An average (`state_dict_ema`, ...)
    is taken only where there is nothing else.

    Args:
      loaded: the object in the file.
      source: the file, for the error.

    Raises:
      InputError: there are no tensors under any such key; it lists the keys that came.
    """
    found = _find(loaded, depth=3)
    if not found:
        raise InputError(
            f"{source} holds no state_dict: expected a dict of tensors, itself or under one of "
            f"{', '.join(_WRAPPERS[:5])}, but it is {_outline(loaded)}; save model.state_dict()."
        )
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in found):
            found = {name.removeprefix(prefix): value for name, value in found.items()}
    return found


def _find(loaded: object, depth: int) -> dict[str, np.ndarray]:
    if not isinstance(loaded, Mapping) or not depth:
        return {}
    for key in _WRAPPERS:
        if inner := _find(loaded.get(key), depth - 1):
            return inner
    return {
        name: value
        for name, value in loaded.items()
        if isinstance(name, str) and isinstance(value, np.ndarray)
    }


def _outline(loaded: object) -> str:
    if isinstance(loaded, Foreign):
        return f"an object of {loaded.name}"
    if not isinstance(loaded, Mapping):
        return f"a {type(loaded).__name__}"
    keys = [str(key)[:60] for key in loaded if isinstance(key, str | int)]
    more = f" and {len(keys) - 8} more" if len(keys) > 8 else ""
    return f"a dict with the keys {', '.join(keys[:8]) or '(none)'}{more}"
