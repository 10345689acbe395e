"""PyTorch's tensors and storages, as its pickles describe them, as views of a file's bytes.

The functions named here are those of `torch/_utils.py` and `torch/_tensor.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from vswin_jax.weights.files.pickles import Builder, Foreign

_DTYPES = {
    "float64": np.float64,
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "complex64": np.complex64,
    "complex128": np.complex128,
    "int64": np.int64,
    "int32": np.int32,
    "int16": np.int16,
    "int8": np.int8,
    "uint64": np.uint64,
    "uint32": np.uint32,
    "uint16": np.uint16,
    "uint8": np.uint8,
    "bool": np.bool_,
    "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "float8_e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
    "float8_e5m2": ml_dtypes.float8_e5m2,
    "float8_e5m2fnuz": ml_dtypes.float8_e5m2fnuz,
}

_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "ComplexDoubleStorage": "complex128",
    "ComplexFloatStorage": "complex64",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    # Bytes whose dtype comes with each tensor.
    "UntypedStorage": "uint8",
    # Quantised: their tensors stay foreign, but they have to be stepped over.
    "QInt32Storage": "int32",
    "QInt8Storage": "int8",
    "QUInt8Storage": "uint8",
    "QUInt4x2Storage": "uint8",
    "QUInt2x4Storage": "uint8",
}

_LONGEST_KEY = 100
# NumPy's own limit.
_MOST_AXES = 64


@dataclass(frozen=True, eq=False, slots=True)
class Storage:
    """The bytes [n] that tensors look into, and the dtype they have unless they bring their own."""

    data: np.ndarray
    dtype: np.dtype


@dataclass(frozen=True, slots=True)
class StorageId:
    """What a pickle says of a storage: its key in the file, its dtype and its elements."""

    key: str
    dtype: np.dtype
    count: int
    # Of an old legacy file: the elements of the storage that this one is a part of.
    view: tuple[int, int] | None = None


def storage_id(persistent: object) -> StorageId:
    """The storage of a persistent id `("storage", class, key, device, count[, view])`.

    Raises:
      ValueError: it is not of that form, or of a class unknown here.
    """
    match persistent:
        case ("storage", Foreign() as kind, str() as key, _, int() as count, *rest):
            view = _view(rest[0]) if rest and rest[0] is not None else None
            if len(key) <= _LONGEST_KEY:
                return StorageId(key, _storage_dtype(kind.name), _count(count), view)
    raise ValueError("its pickle refers to what is no storage")


def _view(described: object) -> tuple[int, int]:
    match described:
        case (str(), int() as offset, int() as size):
            return _count(offset), _count(size)
    raise ValueError("its pickle refers to what is no part of a storage")


def _storage_dtype(name: str) -> np.dtype:
    module, _, kind = name.rpartition(".")
    if not f"{module}.".startswith("torch.") or kind not in _STORAGES:
        raise ValueError(f"its tensors are stored as {name}, which is unknown here")
    return np.dtype(_DTYPES[_STORAGES[kind]])


def native(data: np.ndarray, dtype: np.dtype, *, big_endian: bool) -> np.ndarray:
    """The bytes [n] of a storage in little-endian order: a copy when they are in the other."""
    unit = dtype.itemsize // (2 if dtype.kind == "c" else 1)
    if not big_endian or unit == 1:
        return data
    whole = data[: len(data) // unit * unit]
    return whole.view(f"u{unit}").byteswap().view(np.uint8)


class TensorBuilder:
    """Builds the arrays of one file, and holds them to what the file can have meant.

    A tensor may be larger than its storage (a stride of 0), and what comes after would copy it;
    so all tensors together may take `most_bytes`.
    """

    def __init__(self, most_bytes: int) -> None:
        self.left = most_bytes

    def builders(self) -> dict[str, Builder]:
        """For `read_pickle`: what makes dicts and arrays, by qualified name."""
        from_data: dict[str, Callable[[tuple[Any, ...]], object]] = {
            "torch._utils._rebuild_tensor": self._tensor,
            "torch._utils._rebuild_tensor_v2": self._tensor,
            "torch._utils._rebuild_tensor_v3": self._tensor_with_dtype,
            "torch._utils._rebuild_parameter": _first,
            "torch._utils._rebuild_parameter_with_state": _first,
        }

        def subclass(arguments: tuple[Any, ...]) -> object:
            # Of a subclass, or with attributes: (function, class, arguments, state).
            match arguments:
                case (Foreign() as function, Foreign(), tuple() as inner, _):
                    build = from_data.get(function.name)
                    return build(inner) if build else function
            raise ValueError("its pickle builds a tensor from what is none")

        return {
            **from_data,
            "torch._tensor._rebuild_from_type": subclass,
            "torch._tensor._rebuild_from_type_v2": subclass,
            "collections.OrderedDict": _empty_dict,
            "collections.defaultdict": _empty_dict,
        }

    def _tensor(self, arguments: tuple[Any, ...]) -> object:
        match arguments:
            case (Storage() as storage, offset, tuple() as size, tuple() as stride, *rest):
                # Behind requires_grad and hooks: that the values are to be conjugated or negated.
                if len(rest) > 2 and rest[2]:
                    return Foreign("torch.Tensor")
                return self._view(storage, storage.dtype, offset, size, stride)
        raise ValueError("its pickle builds a tensor from what is none")

    def _tensor_with_dtype(self, arguments: tuple[Any, ...]) -> object:
        match arguments:
            case (Storage() as storage, offset, tuple() as size, tuple() as stride, *rest) if (
                len(rest) >= 3
            ):
                # Behind requires_grad and hooks.
                dtype = rest[2].name.removeprefix("torch.") if isinstance(rest[2], Foreign) else ""
                if dtype not in _DTYPES:
                    return Foreign("torch.Tensor")
                return self._view(storage, np.dtype(_DTYPES[dtype]), offset, size, stride)
        raise ValueError("its pickle builds a tensor from what is none")

    def _view(
        self, storage: Storage, dtype: np.dtype, offset: Any, size: tuple, stride: tuple
    ) -> np.ndarray:
        """A view of `storage`; offset and strides are in elements, and none leaves it."""
        if len(size) != len(stride) or len(size) > _MOST_AXES:
            raise ValueError("its tensors have other axes than strides")
        offset, size, stride = _count(offset), _counts(size), _counts(stride)
        elements = 1
        for length in size:
            elements = min(elements * length, 1 << 62)
        if not elements:
            return np.empty(size, dtype)
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if (last + 1) * dtype.itemsize > len(storage.data):
            raise ValueError("its tensors reach beyond their storages")
        self.left -= elements * dtype.itemsize
        if self.left < 0:
            raise ValueError("its tensors claim to be many times larger than the file")
        # The step along an axis of one element is never taken, so the file may say anything.
        steps = [step * dtype.itemsize * (n > 1) for n, step in zip(size, stride, strict=True)]
        return np.ndarray(size, dtype, storage.data, offset * dtype.itemsize, steps)


def _first(arguments: tuple[Any, ...]) -> object:
    match arguments:
        case (np.ndarray() | Foreign() as tensor, *_):
            return tensor
    raise ValueError("its pickle builds a parameter from what is no tensor")


def _empty_dict(arguments: tuple[Any, ...]) -> dict:
    """The dict that SETITEMS fills; Python 2 gave the items here, and nobody's Swin is that old."""
    match arguments:
        case () | (Foreign(),) | (None,):
            return {}
    raise ValueError("its pickle was written by Python 2")


def _counts(numbers: tuple[Any, ...]) -> tuple[int, ...]:
    return tuple(_count(number) for number in numbers)


def _count(number: object) -> int:
    # Arithmetic on numbers of a million digits takes long, so their length comes first.
    if not isinstance(number, int) or number.bit_length() > 62 or number < 0:
        raise ValueError("its tensors have a size that is no count")
    return number
