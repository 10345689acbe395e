"""Arrays in pickles, of every protocol, dtype and order, without a call of NumPy's functions."""

import pickle

import ml_dtypes
import numpy as np
import pytest

from vswin_jax.weights.files.byte_reader import ByteReader
from vswin_jax.weights.files.numpy_pickles import to_array
from vswin_jax.weights.files.pickles import OpaqueObject, read_pickle
from vswin_jax.weights.files.tensors import TensorBuilder, storage_id


def read(value: object, protocol: int = 4) -> np.ndarray | None:
    builders = TensorBuilder(max_bytes=1 << 20).builders()
    content = pickle.dumps(value, protocol)
    return to_array(read_pickle(ByteReader(content, 1 << 20), builders, storage_id))


@pytest.mark.parametrize("protocol", range(2, 6))
@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.arange(250, dtype=np.uint8),
        np.arange(6, dtype=">f8").reshape(3, 2),
        np.arange(24, dtype=np.float16).reshape(2, 3, 4).T,
        np.array([True, False]),
        np.array(2.5),
        np.zeros((0, 3), np.int64),
        np.arange(4).astype(ml_dtypes.bfloat16),
    ],
    ids=str,
)
def test_arrays_have_their_values_shape_and_dtype(array: np.ndarray, protocol: int) -> None:
    found = read(array, protocol)
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array, strict=True)


@pytest.mark.parametrize(
    "value", [np.array(["text"]), np.array([{}]), np.array([(1, 2.0)], "i4,f4"), "text", {}, None]
)
def test_other_values_are_no_arrays(value: object) -> None:
    assert read(value) is None


FLOAT = OpaqueObject("numpy.dtype", ("f4",))


@pytest.mark.parametrize(
    "state",
    [
        (1, (2,), FLOAT, False, b"123"),
        (1, (3,), FLOAT, False, b"12345678"),
        (1, (-1, 10**30), FLOAT, False, b"12345678"),
        (1, ("a",), FLOAT, False, b"12345678"),
        (1, [2], FLOAT, False, b"12345678"),
        (1, (2,), FLOAT, False, ["a", "b"]),
        (1, (2,), OpaqueObject("numpy.dtype", ("f5",)), False, b"12345678"),
        (1, (2,), OpaqueObject("numpy.dtype", ("O8",)), False, b"12345678"),
        (1, (2,), OpaqueObject("os.system", ("f4",)), False, b"12345678"),
    ],
)
def test_descriptions_that_do_not_fit_are_no_arrays(state: tuple) -> None:
    assert to_array(OpaqueObject("numpy.core.multiarray._reconstruct", (), None, state)) is None


def test_one_text_cannot_become_bytes_again_and_again() -> None:
    text = b"X" + (1 << 19).to_bytes(4, "little") + b"a" * (1 << 19) + b"q\x00"
    call = b"c_codecs\nencode\nh\x00X\x06\0\0\0latin1\x86R"
    builders = TensorBuilder(max_bytes=1 << 20).builders()
    with pytest.raises(ValueError, match="many times larger than the file"):
        read_pickle(ByteReader(text + call * 3 + b".", 1 << 20), builders, storage_id)
