"""Files written as by `torch.save`: their layout, our own reader's view of them, and PyTorch's."""

import tracemalloc
import zipfile
from pathlib import Path
from types import ModuleType

import jax
import ml_dtypes
import numpy as np
import pytest

from vswin_jax.errors import InputError
from vswin_jax.models import create_model, init_params
from vswin_jax.weights import export_state_dict, read_torch_file, write_torch

ARRAYS = {
    "transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "empty": np.zeros((0, 3), np.float32),
    "scalar": np.array(3, np.float16),
    "bfloat16": np.arange(3).astype(ml_dtypes.bfloat16),
    "big endian": np.arange(3, dtype=">i8"),
    "strided": np.arange(8, dtype=np.uint8)[::-2],
    "truth": np.array([True, False]),
    "a name with 'quotes', ü and . dots": np.ones((2, 1, 3)),
}


def assert_equal_arrays(found: dict[str, np.ndarray]) -> None:
    assert list(found) == list(ARRAYS)
    for name, value in ARRAYS.items():
        assert found[name].shape == value.shape
        assert found[name].dtype == value.dtype.newbyteorder("=")
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.parametrize("wrapper", [None, "state_dict"])
def test_our_reader_reads_every_kind_of_array(tmp_path: Path, wrapper: str | None) -> None:
    write_torch(tmp_path / "model.pth", ARRAYS, wrapper)
    found = read_torch_file(tmp_path / "model.pth")
    assert_equal_arrays(found[wrapper] if wrapper else found)
    assert list(tmp_path.iterdir()) == [tmp_path / "model.pth"]


def test_the_zip_file_is_sound_and_its_storages_are_aligned(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    write_torch(path, ARRAYS)
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        storages = [f"archive/data/{number}" for number in range(len(ARRAYS))]
        others = ["archive/data.pkl", "archive/byteorder", "archive/version"]
        assert set(archive.namelist()) == {*storages, *others}
        assert (archive.read(others[1]), archive.read(others[2])) == (b"little", b"3\n")
        for info in archive.infolist():
            header = content[info.header_offset :][:30]
            name_and_extra = int.from_bytes(header[26:28], "little") + int.from_bytes(
                header[28:30], "little"
            )
            assert (info.header_offset + 30 + name_and_extra) % 64 == 0
            assert info.compress_type == zipfile.ZIP_STORED


def test_equal_tensors_give_equal_bytes_under_any_name(tmp_path: Path) -> None:
    for name in ("one.pth", "two.pt"):
        write_torch(tmp_path / name, ARRAYS, "state_dict")
    assert (tmp_path / "one.pth").read_bytes() == (tmp_path / "two.pt").read_bytes()


def test_one_tensor_at_a_time_is_in_memory(tmp_path: Path) -> None:
    # Each is 4 MB, and its transposed values must be copied to be written.
    state = {str(number): np.zeros((1000, 1000), np.float32).T for number in range(8)}
    tracemalloc.start()
    write_torch(tmp_path / "model.pth", state)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6e6


def test_a_dtype_without_a_storage_is_refused_and_the_old_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(b"old")
    with pytest.raises(InputError, match="b is uint16, which a file of torch cannot hold"):
        write_torch(path, {"a": np.zeros(2), "b": np.zeros(2, np.uint16)})
    with pytest.raises(InputError, match="cannot be written: No such file or directory"):
        write_torch(tmp_path / "none" / "model.pth", {"a": np.zeros(2)})
    assert [(file, file.read_bytes()) for file in tmp_path.iterdir()] == [(path, b"old")]


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("wrapper", [None, "state_dict"])
def test_torch_loads_it_as_weights_only(tmp_path: Path, wrapper: str | None, mapped: bool) -> None:
    torch = pytest.importorskip("torch", reason="the oracle needs torch")
    path = tmp_path / "model.pth"
    write_torch(path, ARRAYS, wrapper)
    loaded = torch.load(path, weights_only=True, mmap=mapped)
    state = loaded[wrapper] if wrapper else loaded
    bits = state["bfloat16"].view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    arrays = {name: value.numpy() for name, value in state.items() if name != "bfloat16"}
    assert_equal_arrays({name: arrays.get(name, bits) for name in state})
    assert all(value.is_contiguous() for value in state.values())


@pytest.mark.long
def test_torchvision_computes_the_same_with_it(
    torchvision_models: ModuleType, tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch", reason="the oracle needs torch")
    model = create_model("swin_tiny", 400)
    params = jax.jit(lambda key: init_params(model, key))(jax.random.key(0))
    path = tmp_path / "swin3d_t.pth"
    write_torch(path, export_state_dict(params, "torchvision", model.window_size))
    theirs = torchvision_models.video.swin3d_t().eval()
    theirs.load_state_dict(torch.load(path, weights_only=True, mmap=True), strict=True)
    clips = np.random.default_rng(0).standard_normal((1, 8, 56, 56, 3), np.float32)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(clips.transpose(0, 4, 1, 2, 3).copy())).numpy()
    logits = jax.jit(lambda x: model.apply({"params": params}, x))(clips)
    np.testing.assert_allclose(logits, expected, atol=2e-5 * np.abs(expected).max(), rtol=0)
