"""Files of numpy.savez, and zip files that would exhaust memory."""

import io
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from vswin_jax.errors import InputError
from vswin_jax.weights.files.mapped_file import map_file
from vswin_jax.weights.files.npz_file import is_npz, read_npz
from vswin_jax.weights.files.pickles import OpaqueObject
from vswin_jax.weights.files.read import read_weight_file


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_and_objects_beside_them(tmp_path: Path, save: object) -> None:
    path = tmp_path / "model.npz"
    weights = np.arange(6, dtype=np.float32).reshape(2, 3)
    save(path, **{"a/b.weight": weights, "settings": np.array({"lr": 1}), "epoch": 3})
    data = map_file(path)
    assert is_npz(data)
    found = read_npz(data, path)
    np.testing.assert_array_equal(found["a/b.weight"], weights, strict=True)
    assert found["epoch"] == 3
    assert isinstance(found["settings"], OpaqueObject)


def test_other_zip_files_are_not_npz(tmp_path: Path) -> None:
    path = tmp_path / "other.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", b"")
        archive.writestr("a/data.pkl", b"")
    assert not is_npz(map_file(path))


def test_arrays_cannot_grow_without_bound(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, **{name: np.zeros(23 << 20, np.uint8) for name in "abc"})
    assert path.stat().st_size < 1 << 20
    with pytest.raises(InputError, match="many times larger than the file"):
        read_npz(map_file(path), path)


def test_a_large_directory_takes_no_memory(tmp_path: Path) -> None:
    entry = struct.pack("<4s6H3L5H2L", b"PK\x01\x02", *[0] * 9, 5, *[0] * 6) + b"a.npy"
    count = (17 << 20) // len(entry) + 1
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, count * len(entry), 0, 0)
    path = tmp_path / "bomb.npz"
    path.write_bytes(entry * count + end)
    # An entry at the start, as every reader expects by the first bytes.
    content = io.BytesIO()
    np.savez(content, a=np.ones(1))
    path.write_bytes(content.getvalue()[:200] + path.read_bytes())
    tracemalloc.start()
    with pytest.raises(InputError, match="a single piece of"):
        read_weight_file(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20
