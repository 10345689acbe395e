"""Reads files of `torch.save` without torch: the zip files since torch 1.6 and the legacy files.

Also finds the state_dict in the object that a file holds.
"""

import os

import numpy as np

from vswin_jax.errors import InputError
from vswin_jax.weights.files.mapped_file import REMEDY, map_file
from vswin_jax.weights.files.other_files import describe_other_file
from vswin_jax.weights.files.torch_legacy import read_legacy
from vswin_jax.weights.files.torch_zip import read_zip
from vswin_jax.weights.files.unwrap import unwrap

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
    data = map_file(path)
    reader = next((read for magic, read in _READERS.items() if data[: len(magic)] == magic), None)
    if reader is None:
        raise InputError(f"{path} {describe_other_file(data, str(path))}")
    try:
        return reader(data, str(path))
    except InputError:
        raise
    except ValueError as error:
        reason = " ".join(str(error)[:200].split())
        raise InputError(f"{path} is cut short or damaged ({reason}): {REMEDY}.") from None


def extract_state_dict(loaded: object, source: str) -> dict[str, np.ndarray]:
    """Return the tensors of a model by name, from the result of `read_torch_file`.

    They are those of the Swin in it, without the prefixes of wrappers (see `unwrap`). Without a
    Swin, they are those of `loaded` itself or of a common key (`state_dict`, `model`, ...);
    averaged weights (`state_dict_ema`, ...) are used only if there are no others.

    Raises:
      InputError: no state_dict is found, or several Swins. The message names `source`.
    """
    return unwrap(loaded, source).tensors
