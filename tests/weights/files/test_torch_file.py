"""Files of torch.save read without torch: committed fixtures, other files and damaged ones."""

import pickle
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from vswin_jax.errors import InputError
from vswin_jax.weights.files.pickles import OpaqueObject
from vswin_jax.weights.files.torch_file import extract_state_dict, read_torch_file

FIXTURES = Path(__file__).parents[2] / "data" / "weights"
EXPECTED = dict(np.load(FIXTURES / "everything.npz"))
CONTAINERS = ("zip", "legacy")
NARROW = {"bfloat16": ml_dtypes.bfloat16, "float8": ml_dtypes.float8_e4m3fn}


def read_everything(container: str) -> dict:
    loaded = read_torch_file(FIXTURES / f"everything_{container}.pth")
    assert isinstance(loaded, dict)
    return loaded


def rewrite(path: Path, source: str = "everything_zip", **changes: object) -> Path:
    """Copy a torch zip file with `zipfile` options, another folder or changed entries."""
    entries = dict(changes.pop("entries", {}))
    folder = changes.pop("folder", f"{source}")
    with (
        zipfile.ZipFile(FIXTURES / f"{source}.pth") as old,
        zipfile.ZipFile(path, "w", **changes) as new,
    ):
        for name in old.namelist():
            rest = name.partition("/")[2]
            content = entries.get(rest, old.read(name))
            if content is not None:
                new.writestr(f"{folder}/{rest}", content)
    return path


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("name", EXPECTED)
def test_every_kind_of_tensor_has_the_expected_values_and_dtype(container: str, name: str) -> None:
    read = read_everything(container)["state_dict"][name]
    assert read.dtype == NARROW.get(name, EXPECTED[name].dtype)
    np.testing.assert_array_equal(read.astype(EXPECTED[name].dtype), EXPECTED[name], strict=True)


@pytest.mark.parametrize("container", CONTAINERS)
def test_exactly_the_tensors_of_the_fixture_are_read(container: str) -> None:
    assert list(read_everything(container)["state_dict"]) == list(EXPECTED)


@pytest.mark.parametrize("container", CONTAINERS)
def test_other_objects_are_opaque_and_have_names(container: str) -> None:
    loaded = read_everything(container)
    assert loaded["config"].name == "yacs.config.CfgNode"
    history = loaded["message_hub"]["log_scalars"]["loss"]
    assert history.name == "mmengine.logging.history_buffer.HistoryBuffer"
    assert isinstance(loaded["meta"]["best"], OpaqueObject)
    assert loaded["meta"]["epoch"] == 30
    np.testing.assert_array_equal(loaded["optimizer"]["state"][0]["step"], 1)


@pytest.mark.parametrize("container", CONTAINERS)
def test_tensors_are_views_of_the_file(container: str) -> None:
    state = read_everything(container)["state_dict"]
    assert np.shares_memory(state["shared_start"], state["shared_end"])
    assert not state["float32"].flags.writeable
    assert not state["float32"].flags.owndata
    assert state["transposed"].strides == (4, 24)
    assert state["broadcast"].strides == (0, 4)


def test_a_file_of_mmaction2s_model_zoo() -> None:
    state = extract_state_dict(read_torch_file(FIXTURES / "mmaction2_half.pth"), "half")
    kernel = state["backbone.patch_embed.proj.weight"]
    assert kernel.dtype == np.float16
    np.testing.assert_array_equal(kernel.reshape(-1), np.arange(kernel.size) % 64 / 64)
    assert state["backbone.layers.1.blocks.0.attn.relative_position_index"].dtype == np.int64
    assert state["backbone.norm3.weight"].shape == (8,)


def test_big_endian_zip_files(tmp_path: Path) -> None:
    with zipfile.ZipFile(FIXTURES / "everything_zip.pth") as file:
        # The first storages, in the order of the state_dict: float32, float64, float16, bfloat16.
        swapped: dict[str, bytes] = {"byteorder": b"big"}
        for key, width in (("0", 4), ("1", 8), ("2", 2), ("3", 2)):
            words = np.frombuffer(file.read(f"everything_zip/data/{key}"), f"u{width}")
            swapped[f"data/{key}"] = words.byteswap().tobytes()
        key = str(list(EXPECTED).index("complex64"))
        words = np.frombuffer(file.read(f"everything_zip/data/{key}"), "u4")
        swapped[f"data/{key}"] = words.byteswap().tobytes()
    loaded = read_torch_file(rewrite(tmp_path / "big.pth", entries=swapped))
    for name in ("float32", "float64", "float16", "bfloat16", "complex64"):
        read = loaded["state_dict"][name]
        assert read.dtype.isnative
        np.testing.assert_array_equal(read.astype(EXPECTED[name].dtype), EXPECTED[name])


def test_zip_files_with_any_folder_compressed_or_before_the_byteorder_entry(tmp_path: Path) -> None:
    path = rewrite(
        tmp_path / "other.pth",
        folder="any name",
        compression=zipfile.ZIP_DEFLATED,
        entries={"byteorder": None},
    )
    read = read_torch_file(path)["state_dict"]["int64"]
    np.testing.assert_array_equal(read, EXPECTED["int64"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n<!DOCTYPE html><html>Not found</html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
        (b"\0" * 257 + b"ustar" + b"\0" * 300, "is a tar file"),
        (b"Not Found", "is not a file of torch.save"),
        (b'{"error": "not found"}', "is text in JSON"),
        (b"\x89HDF\r\n\x1a\n", "is an HDF5 file"),
        (b"\x1f\x8b\x08\x08", "is compressed by gzip"),
        (b"\x90\0\0\0\0\0\0\0" + b'{"a":', "is the beginning of a safetensors file"),
        (pickle.dumps({"a": 1}), "is a pickle, but not one of torch.save"),
        (b"PK\x03\x04", "is cut short or damaged"),
        (b"\x80", "is cut short or damaged"),
    ],
)
def test_other_kinds_of_files_are_named_in_the_error(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as raised:
        read_torch_file(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("m.onnx", "is an ONNX model"),
        ("saved_model.pb", "of TensorFlow"),
        ("m.index", "TensorFlow"),
    ],
)
def test_formats_without_known_bytes_are_named_by_the_file(
    tmp_path: Path, name: str, message: str
) -> None:
    (tmp_path / name).write_bytes(b"\x08\x07\x12\x07pytorch")
    with pytest.raises(InputError, match=message):
        read_torch_file(tmp_path / name)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (("m/data.pkl", "m/constants.pkl", "m/code/__torch__.py"), "is a TorchScript archive"),
        (("m/version", "m/models/model.json"), r"is a program of torch\.export"),
        (("folder/epoch_3.pth",), "is a zip archive that holds folder/epoch_3.pth: unpack it"),
        (("metadata.json", "config.json", "model.weights.h5"), "is a model of Keras"),
    ],
)
def test_zip_files_of_other_programs_are_named_in_the_error(
    tmp_path: Path, entries: tuple[str, ...], message: str
) -> None:
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        for entry in entries:
            archive.writestr(entry, b"")
    with pytest.raises(InputError, match=message):
        read_torch_file(tmp_path / "model.pt")


def test_another_zip_file_is_named_in_the_error(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    with open(path, "wb") as file:
        np.savez(file, a=np.ones(3))
    with pytest.raises(InputError, match=r"is a zip file, but not one of torch\.save"):
        read_torch_file(path)


def test_a_missing_file_and_a_directory_are_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no file"):
        read_torch_file(tmp_path / "none.pth")
    with pytest.raises(InputError, match="cannot be read"):
        read_torch_file(tmp_path)


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(tmp_path: Path, container: str, kept: float) -> None:
    whole = (FIXTURES / f"everything_{container}.pth").read_bytes()
    path = tmp_path / "cut.pth"
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(InputError, match="is cut short or damaged"):
        read_torch_file(path)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"data/0": b"\0" * 95}, "a storage has 95 of its 96 bytes"),
        ({"data/0": None}, "its entry everything_zip/data/0 is missing"),
        ({"data.pkl": None}, "not one of torch.save"),
        ({"data.pkl": b""}, "damaged"),
    ],
)
def test_missing_and_truncated_entries_are_errors(
    tmp_path: Path, entries: dict[str, bytes | None], message: str
) -> None:
    path = rewrite(tmp_path / "broken.pth", entries=entries)
    with pytest.raises(InputError, match=message):
        read_torch_file(path)


def test_a_compressed_entry_cannot_grow_without_bound(tmp_path: Path) -> None:
    zeros = bytes(200 << 20)
    path = rewrite(
        tmp_path / "bomb.pth", entries={"data.pkl": zeros}, compression=zipfile.ZIP_DEFLATED
    )
    with pytest.raises(InputError, match="many times larger than the file"):
        read_torch_file(path)


TENSORS = {"a": np.ones(2), "b": np.zeros(3)}


@pytest.mark.parametrize(
    "loaded",
    [
        TENSORS,
        {"model": TENSORS, "epoch": np.ones(()), "optimizer": {"state": {}}},
        {"state_dict": TENSORS, "state_dict_ema": {"a": np.zeros(2)}},
        {"module": {"state_dict": TENSORS}},
        {"state_dict_ema": TENSORS, "epoch": 3},
        {"state_dict": {f"module.{name}": value for name, value in TENSORS.items()}},
        {f"module._orig_mod.{name}": value for name, value in TENSORS.items()},
        TENSORS | {"config": OpaqueObject("x"), "epoch": 3},
    ],
)
def test_a_state_dict_is_found_under_common_keys(loaded: dict) -> None:
    found = extract_state_dict(loaded, "file")
    assert list(found) == ["a", "b"]
    assert found["a"] is TENSORS["a"]


def test_a_prefix_of_only_some_names_is_kept() -> None:
    assert list(extract_state_dict({"module.a": np.ones(1), "b": np.ones(1)}, "file")) == [
        "module.a",
        "b",
    ]


@pytest.mark.parametrize(
    ("loaded", "message"),
    [
        ({"epoch": 3, "optimizer": {}}, "it is a dict with the keys epoch, optimizer;"),
        ({}, r"it is a dict with the keys \(none\);"),
        ({f"k{n}": n for n in range(20)}, "k7 and 12 more;"),
        (OpaqueObject("my.Model"), r"it is an object of my\.Model;"),
        ([np.ones(3)], "it is a list;"),
    ],
)
def test_the_error_without_a_state_dict_describes_the_object(loaded: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        extract_state_dict(loaded, "file")


def test_arrays_remain_valid_after_the_file_is_unlinked(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes((FIXTURES / "everything_zip.pth").read_bytes())
    path.chmod(0o400)
    loaded = read_torch_file(path)
    path.unlink()
    np.testing.assert_array_equal(loaded["state_dict"]["float32"], EXPECTED["float32"])
