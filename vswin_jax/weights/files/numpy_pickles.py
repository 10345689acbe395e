"""Builds arrays from the descriptions of NumPy arrays that a pickle holds.

`read_pickle` gives an array as an `OpaqueObject`: the function that would rebuild it, and its
bytes. Nothing is called here; the bytes become a view.
"""

from typing import Any

import ml_dtypes
import numpy as np

from vswin_jax.weights.files.pickles import OpaqueObject

_FUNCTIONS = ("numpy.core.multiarray.", "numpy._core.multiarray.")
# The call for bytes that are empty, in old protocols.
_BYTES = ("__builtin__.bytes", "builtins.bytes")
_FROM_BUFFER = ("numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer")
# How tensors of devices other than GPUs are pickled: an array, and a dtype that it is cast to.
_FROM_NUMPY = (
    "torch._utils._rebuild_device_tensor_from_numpy",
    "torch._utils._rebuild_device_tensor_from_cpu_tensor",
    "torch._utils._rebuild_xla_tensor",
)
_NARROW = {
    f"ml_dtypes.{name}": np.dtype(getattr(ml_dtypes, name))
    for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2")
}


def to_array(value: object) -> np.ndarray | None:
    """Return an array of a file, or the one that `value` describes; None for anything else."""
    if isinstance(value, OpaqueObject) and value.name in _FROM_NUMPY and value.arguments:
        value = value.arguments[0]
    match value:
        case np.ndarray():
            return value
        case OpaqueObject(name=name, arguments=(data, dtype, shape, order)) if name in _FROM_BUFFER:
            return _view(data, dtype, shape, is_fortran=order == "F")
        case OpaqueObject(name=name, state=(_, shape, dtype, is_fortran, data)) if name.startswith(
            _FUNCTIONS
        ) and name.endswith("._reconstruct"):
            return _view(data, dtype, shape, is_fortran=bool(is_fortran))
    return None


def _view(data: object, dtype: object, shape: object, *, is_fortran: bool) -> np.ndarray | None:
    """Return the array of these bytes; None if its dtype holds no numbers or they do not fit."""
    if isinstance(data, OpaqueObject) and data.name in _BYTES and not data.arguments:
        data = b""
    if not isinstance(data, bytes | bytearray) or not isinstance(shape, tuple):
        return None
    try:
        found = _dtype(dtype)
        array = np.frombuffer(data, found) if found is not None else None
        return None if array is None else array.reshape(shape, order="F" if is_fortran else "C")
    except (TypeError, ValueError, OverflowError):
        return None


def _dtype(described: Any) -> np.dtype | None:
    """Return the dtype of numbers that a pickle describes as `numpy.dtype("f4")` and a state."""
    match described:
        case OpaqueObject(name="numpy.dtype", arguments=(OpaqueObject(name=name), *_)):
            return _NARROW.get(name)
        case OpaqueObject(name="numpy.dtype", arguments=(str() as code, *_), state=state):
            is_big = isinstance(state, tuple) and len(state) > 1 and state[1] == ">"
            known = code[:1] in ("f", "i", "u", "b", "c") and code[1:].isdecimal()
            return np.dtype(f"{'>' if is_big else '<'}{code}") if known and len(code) < 4 else None
    return None
