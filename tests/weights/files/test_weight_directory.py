"""Directories of Hugging Face, whole and sharded, and directories of other programs."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from vswin_jax.errors import InputError
from vswin_jax.weights.files.read import locate, read_state_dict
from vswin_jax.weights.files.weight_directory import find_weight_file

FIXTURES = Path(__file__).parents[2] / "data" / "weights"
PLAIN = dict(read_state_dict(FIXTURES / "mmaction2_half.pth"))
INDEX = "model.safetensors.index.json"


def write_shards(directory: Path, prefix: str = "") -> Path:
    state = {prefix + name: value for name, value in PLAIN.items()}
    files = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    weight_map = {name: files[name < f"{prefix}backbone.layers.1"] for name in state}
    for file in files:
        own = {name: state[name] for name in state if weight_map[name] == file}
        save_file(own, directory / file)
    index = directory / INDEX
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    return index


def assert_plain(source: Path) -> None:
    found = read_state_dict(source)
    assert found.keys() == PLAIN.keys()
    for name, value in PLAIN.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name, strict=True)


def test_a_directory_with_one_file_of_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "swin"}')
    content = (FIXTURES / "mmaction2_half.pth").read_bytes()
    (tmp_path / "pytorch_model.bin").write_bytes(content)
    assert_plain(tmp_path)
    save_file(PLAIN, tmp_path / "model.safetensors")
    assert locate(tmp_path) == tmp_path / "model.safetensors"
    assert_plain(tmp_path)


@pytest.mark.parametrize("prefix", ["", "_orig_mod.module."])
def test_shards_by_their_directory_or_index(tmp_path: Path, prefix: str) -> None:
    index = write_shards(tmp_path, prefix)
    assert_plain(tmp_path)
    assert_plain(index)


@pytest.mark.parametrize("name", ["model.fp16.safetensors.index.json", "x.index.json"])
def test_the_only_index_may_have_any_name(tmp_path: Path, name: str) -> None:
    write_shards(tmp_path).rename(tmp_path / name)
    (tmp_path / "optimizer.pt").touch()
    assert_plain(tmp_path)


def test_shards_of_torch(tmp_path: Path) -> None:
    for name in ("a.bin", "b.bin"):
        (tmp_path / name).write_bytes((FIXTURES / "wrapped" / "dict_subclass.pth").read_bytes())
    (tmp_path / "pytorch_model.bin.index.json").write_text('{"weight_map": {"x": "a.bin"}}')
    with pytest.raises(InputError, match=r"a.bin has no 'x', which pytorch_model.bin.index.json"):
        read_state_dict(tmp_path)


def test_a_directory_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    # Root may read everything, whatever the permissions are.
    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(InputError, match=r"cannot be read \(Permission denied\): change its perm"):
        find_weight_file(tmp_path)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    write_shards(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(InputError, match=r"names the file model-00002-of-00002.safetensors, which"):
        read_state_dict(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"weight_map": {"a": "../model.safetensors"}}', "no file of its directory"),
        ('{"weight_map": {"a": "/etc/passwd"}}', "no file of its directory"),
        ('{"weight_map": {"a": 3}}', "no file of its directory"),
        ('{"weight_map": {"a": ""}}', "no file of its directory"),
        ('{"weight_map": {}}', "is not an index"),
        ('{"model_type": "swin"}', "is not an index"),
        ("[1", "is not an index"),
        ("[" * 100_000, "is not an index"),
        ("", "is empty"),
    ],
)
def test_other_indices_are_errors(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / INDEX).write_text(text)
    with pytest.raises(InputError, match=message):
        read_state_dict(tmp_path)


def test_other_directories(tmp_path: Path) -> None:
    assert find_weight_file(tmp_path / "none") is None
    assert find_weight_file(tmp_path) is None
    (tmp_path / "epoch_1.pth").touch()
    assert find_weight_file(tmp_path) == tmp_path / "epoch_1.pth"
    (tmp_path / "epoch_2.pth").touch()
    with pytest.raises(InputError, match=r"holds epoch_1.pth, epoch_2.pth: give one of these"):
        locate(tmp_path)
    (tmp_path / "checkpoints" / "7").mkdir(parents=True)
    assert find_weight_file(tmp_path) is None
    assert find_weight_file(tmp_path / "checkpoints") is None
    (tmp_path / "distributed").mkdir()
    (tmp_path / "distributed" / "__0_0.distcp").touch()
    with pytest.raises(InputError, match=r"of torch\.distributed: convert it"):
        locate(tmp_path / "distributed")
