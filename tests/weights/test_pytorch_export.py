"""Exports to PyTorch: names, index buffers and the safetensors file."""

import itertools
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from vswin_jax.errors import InputError
from vswin_jax.models import create_model, init_params
from vswin_jax.weights.layouts.layouts import LAYOUTS_3D, detect_layout, to_canonical
from vswin_jax.weights.layouts.names import Params, to_state_dict
from vswin_jax.weights.pytorch_export import (
    export_state_dict,
    relative_position_index,
    write_safetensors,
)

SMALL = {"embed_dim": 8, "depths": (2, 2), "num_heads": (1, 2), "window_size": (2, 3, 3)}


def random_params(num_classes: int = 5, **overrides: object) -> Params:
    model = create_model("swin_tiny", num_classes, **{**SMALL, **overrides})
    shapes = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape, np.float32), shapes)


def test_names_and_shapes_are_those_of_a_released_file() -> None:
    text = (Path(__file__).parents[1] / "data" / "swin_t_state_dict.txt").read_text()
    released = {
        name: tuple(int(n) for n in shape[1 : shape.index(")")].split(",") if n.strip())
        for name, shape in (line.strip().split(" ", 1) for line in text.splitlines())
    }
    model = create_model("swin_tiny", 400)
    params = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
    empty = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), params)
    state = export_state_dict(empty, "original", (8, 7, 7))
    assert {name: value.shape for name, value in state.items()} == released
    plain = export_state_dict(empty, "original", (8, 7, 7), buffers=False)
    assert plain.keys() == {name for name in released if "index" not in name}


@pytest.mark.parametrize("num_classes", [5, 0])
@pytest.mark.parametrize("layout", LAYOUTS_3D)
def test_a_written_file_has_the_same_parameters(
    tmp_path: Path, layout: str, num_classes: int
) -> None:
    params = random_params(num_classes)
    state = export_state_dict(params, layout, SMALL["window_size"])
    write_safetensors(tmp_path / "model.safetensors", state)
    loaded = load_file(tmp_path / "model.safetensors")
    assert detect_layout(loaded) == layout
    back, expected = to_canonical(loaded), to_state_dict(params)
    assert back.keys() == expected.keys()
    for name in expected:
        np.testing.assert_array_equal(back[name], expected[name], err_msg=name)


def test_the_index_of_a_small_window() -> None:
    # Query (0, 0, 1) and key (1, 0, 0) of a window (2, 1, 2) have the offset (-1, 0, 1), which is
    # entry (0, 0, 2) of a table 3 x 1 x 3: row 2.
    index = relative_position_index((2, 1, 2))
    assert index.dtype == np.int64
    assert index.shape == (4, 4)
    assert index[1, 2] == 2


def test_the_index_is_the_offset_of_query_minus_key() -> None:
    window = (3, 2, 4)
    sides = tuple(2 * extent - 1 for extent in window)
    tokens = list(itertools.product(*map(range, window)))
    expected = [
        [
            np.ravel_multi_index(
                [q - k + n - 1 for q, k, n in zip(*both, window, strict=True)], sides
            )
            for both in ((query, key) for key in tokens)
        ]
        for query in tokens
    ]
    np.testing.assert_array_equal(relative_position_index(window), expected)


def test_the_index_of_the_published_window() -> None:
    # From `WindowAttention3D` of the reference.
    index = relative_position_index((8, 7, 7))
    assert (index[0, 0], index[0, -1], index[-1, 0]) == (1267, 0, 2534)


def test_a_wrong_window_or_layout_is_an_error() -> None:
    with pytest.raises(InputError, match=r"has 75 rows but windows of \(3, 3, 3\) need 125"):
        export_state_dict(random_params(), "original", (3, 3, 3))
    with pytest.raises(InputError, match="Unknown layout to write 'mmaction': did you mean"):
        export_state_dict(random_params(), "mmaction", (2, 3, 3))


def test_the_library_reads_every_kind_of_array(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    state = {
        "transposed": np.arange(6.0).reshape(2, 3).T,
        "empty": np.zeros((0, 3), np.float32),
        "scalar": np.array(3, np.float16),
        "bfloat16": np.arange(3).astype(ml_dtypes.bfloat16),
        "big endian": np.arange(3, dtype=">i8"),
        "strided": np.arange(8, dtype=np.uint8)[::-2],
        "truth": np.array([True, False]),
    }
    write_safetensors(path, state, {"source": "a test"})
    loaded = load_file(path)
    assert loaded.keys() == state.keys()
    for name, value in state.items():
        assert loaded[name].shape == value.shape
        assert loaded[name].dtype == value.dtype.newbyteorder("=")
        np.testing.assert_array_equal(loaded[name], value, err_msg=name)
    with safe_open(path, "numpy") as file:
        assert file.metadata() == {"format": "pt", "source": "a test"}
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"old")
    with pytest.raises(InputError, match="b is complex64, which a safetensors file cannot hold"):
        write_safetensors(path, {"a": np.zeros(2), "b": np.zeros(2, np.complex64)})

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vswin_jax.weights.pytorch_export._write_tensor", fail)
    with pytest.raises(InputError, match="cannot be written: No space left on device; give a path"):
        write_safetensors(path, {"a": np.zeros(2)})
    assert [(file, file.read_bytes()) for file in tmp_path.iterdir()] == [(path, b"old")]


def test_a_missing_directory_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written: No such file or directory"):
        write_safetensors(tmp_path / "none" / "model.safetensors", {"a": np.zeros(2)})
