"""Builds NumPy views of a file's bytes for the tensors and storages in PyTorch's pickles.

The qualified names below are functions of `torch/_utils.py` and `torch/_tensor.py`.
"""

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from vswin_jax.weights.files.pickles import Builder, OpaqueObject

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
    # Bytes; each tensor has its own dtype.
    "UntypedStorage": "uint8",
    # Quantized tensors are not built, but a legacy reader must know the sizes of their storages.
    "QInt32Storage": "int32",
    "QInt8Storage": "int8",
    "QUInt8Storage": "uint8",
    "QUInt4x2Storage": "uint8",
    "QUInt2x4Storage": "uint8",
}

_MAX_KEY_LENGTH = 100
# The limit of NumPy.
_MAX_AXES = 64


@dataclass(frozen=True, eq=False, slots=True)
class Storage:
    """The bytes `[n]` behind tensors, and the dtype of tensors that do not have their own."""

    data: np.ndarray
    dtype: np.dtype


@dataclass(frozen=True, slots=True)
class StorageId:
    """The description of a storage in a pickle: its key in the file, dtype and element count."""

    key: str
    dtype: np.dtype
    count: int
    # In an old legacy file: (offset, size), in elements, within the storage with this key.
    view: tuple[int, int] | None = None


def storage_id(persistent: object) -> StorageId:
    """Parse a persistent id `("storage", class, key, device, count[, view])`.

    Raises:
      ValueError: the id does not have that form, or has an unknown class.
    """
    match persistent:
        case ("storage", OpaqueObject() as storage_class, str() as key, _, int() as count, *rest):
            view = _parse_view(rest[0]) if rest and rest[0] is not None else None
            if len(key) <= _MAX_KEY_LENGTH:
                dtype = _storage_dtype(storage_class.name)
                return StorageId(key, dtype, _check_count(count), view)
    raise ValueError("its pickle has a persistent id that is not a storage")


def _parse_view(view: object) -> tuple[int, int]:
    match view:
        case (str(), int() as offset, int() as size):
            return _check_count(offset), _check_count(size)
    raise ValueError("its pickle has an invalid view of a storage")


def _storage_dtype(name: str) -> np.dtype:
    module, _, kind = name.rpartition(".")
    if not f"{module}.".startswith("torch.") or kind not in _STORAGES:
        raise ValueError(f"its tensors are stored as {name}, which is an unknown class")
    return np.dtype(_DTYPES[_STORAGES[kind]])


def to_little_endian(data: np.ndarray, dtype: np.dtype, *, big_endian: bool) -> np.ndarray:
    """Return the bytes `[n]` of a storage in little-endian order, copied only if swapped."""
    unit = dtype.itemsize // (2 if dtype.kind == "c" else 1)
    if not big_endian or unit == 1:
        return data
    whole = data[: len(data) // unit * unit]
    return whole.view(f"u{unit}").byteswap().view(np.uint8)


class TensorBuilder:
    """Builds the arrays of one file, and limits their total size.

    A tensor can be larger than its storage (with a stride of 0), and the caller may copy it;
    therefore all tensors together may take at most `max_bytes`.
    """

    def __init__(self, max_bytes: int) -> None:
        self.bytes_left = max_bytes

    def builders(self) -> dict[str, Builder]:
        """Return the functions for `read_pickle` that make dicts and arrays, by qualified name."""
        return {
            **self._tensor_builders(),
            "torch._tensor._rebuild_from_type": self._subclass,
            "torch._tensor._rebuild_from_type_v2": self._subclass,
            "collections.OrderedDict": _empty_dict,
            "collections.defaultdict": _empty_dict,
            "_codecs.encode": self._bytes,
        }

    def _tensor_builders(self) -> dict[str, Builder]:
        return {
            "torch._utils._rebuild_tensor": self._tensor,
            "torch._utils._rebuild_tensor_v2": self._tensor,
            "torch._utils._rebuild_tensor_v3": self._tensor_with_dtype,
            "torch._utils._rebuild_parameter": _parameter,
            "torch._utils._rebuild_parameter_with_state": _parameter,
        }

    def _bytes(self, arguments: tuple[Any, ...]) -> bytes:
        """Build the bytes of a NumPy array, which old protocols of pickle hold as Latin-1 text."""
        match arguments:
            case (str() as text, "latin1" | "latin-1"):
                # The same text can be encoded again and again.
                self._reserve(len(text))
                return text.encode("latin-1")
        raise ValueError("its pickle has bytes in an unknown encoding")

    def _reserve(self, count: int) -> None:
        self.bytes_left -= count
        if self.bytes_left < 0:
            raise ValueError("its tensors claim to be many times larger than the file")

    def _subclass(self, arguments: tuple[Any, ...]) -> object:
        """Build a tensor of a subclass or with attributes, as a plain tensor."""
        match arguments:
            case (OpaqueObject() as function, OpaqueObject() as kind, tuple() as inner, state):
                build = self._tensor_builders().get(function.name)
                return build(inner) if build else _whole_tensor(inner, state, kind.name)
        raise ValueError("its pickle has invalid arguments for a tensor")

    def _tensor(self, arguments: tuple[Any, ...]) -> object:
        match arguments:
            case (Storage() as storage, offset, tuple() as size, tuple() as stride, *rest):
                # After requires_grad and hooks come flags, such as for a conjugated tensor, whose
                # values are not those of the storage.
                if len(rest) > 2 and rest[2]:
                    return OpaqueObject("torch.Tensor")
                return self._view(storage, storage.dtype, offset, size, stride)
        raise ValueError("its pickle has invalid arguments for a tensor")

    def _tensor_with_dtype(self, arguments: tuple[Any, ...]) -> object:
        match arguments:
            case (Storage() as storage, offset, tuple() as size, tuple() as stride, *rest) if (
                len(rest) >= 3
            ):
                # The dtype comes after requires_grad and hooks.
                dtype = (
                    rest[2].name.removeprefix("torch.") if isinstance(rest[2], OpaqueObject) else ""
                )
                if dtype not in _DTYPES:
                    return OpaqueObject("torch.Tensor")
                return self._view(storage, np.dtype(_DTYPES[dtype]), offset, size, stride)
        raise ValueError("its pickle has invalid arguments for a tensor")

    def _view(
        self, storage: Storage, dtype: np.dtype, offset: Any, size: tuple, stride: tuple
    ) -> np.ndarray:
        """Return a view of `storage`; offset and strides are in elements."""
        if len(size) != len(stride) or len(size) > _MAX_AXES:
            raise ValueError("its tensors have sizes and strides of different lengths")
        offset, size, stride = _check_count(offset), _check_counts(size), _check_counts(stride)
        elements = _capped_product(size)
        if not elements:
            return np.empty(size, dtype)
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if (last + 1) * dtype.itemsize > len(storage.data):
            raise ValueError("its tensors reach beyond their storages")
        self._reserve(elements * dtype.itemsize)
        # The stride of an axis of one element is never used, and files have any value there.
        steps = [step * dtype.itemsize * (n > 1) for n, step in zip(size, stride, strict=True)]
        return np.ndarray(size, dtype, storage.data, offset * dtype.itemsize, steps)


def _whole_tensor(size_and_others: tuple[Any, ...], state: object, name: str) -> object:
    """Return the part of a distributed tensor in the file, if it is the whole; else its name."""
    # An object with slots has a pair: its `__dict__`, and its slots.
    slots = state[-1] if isinstance(state, tuple) and state else state
    part = slots.get("_local_tensor") if isinstance(slots, dict) else None
    is_whole = isinstance(part, np.ndarray) and part.shape in size_and_others[2:3]
    return part if is_whole else OpaqueObject(name)


def _parameter(arguments: tuple[Any, ...]) -> object:
    match arguments:
        case (np.ndarray() | OpaqueObject() as tensor, *_):
            return tensor
    raise ValueError("its pickle has a parameter without a tensor")


def _empty_dict(arguments: tuple[Any, ...]) -> dict:
    """Return the dict that SETITEMS fills; Python 2, older than any Swin, passed the items."""
    match arguments:
        case () | (OpaqueObject(),) | (None,):
            return {}
    raise ValueError("its pickle was written by Python 2")


def _capped_product(sizes: tuple[int, ...]) -> int:
    # The cap keeps the products of huge sizes from growing without bound.
    product = 1
    for size in sizes:
        product = min(product * size, 1 << 62)
    return product


def _check_counts(numbers: tuple[Any, ...]) -> tuple[int, ...]:
    return tuple(_check_count(number) for number in numbers)


def _check_count(number: object) -> int:
    # Arithmetic on numbers of a million digits is slow, so the bit length is checked first.
    if not isinstance(number, int) or number.bit_length() > 62 or number < 0:
        raise ValueError("its tensors have a size that is not a valid count")
    return number
