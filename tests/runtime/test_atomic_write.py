"""Atomic file writes."""

import os
import stat
from pathlib import Path

import pytest

from vswin_jax.runtime.atomic_write import atomic_write, is_device


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with atomic_write(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    # write_bytes creates the file before it rejects a str.
    with pytest.raises(TypeError), atomic_write(path) as partial:
        partial.write_bytes("half")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.txt"]


@pytest.mark.parametrize("own", ["file.txt.partial", "elsewhere"])
def test_the_temporary_name_can_be_given(tmp_path: Path, own: str) -> None:
    given = None if own.startswith("file") else tmp_path / own
    with atomic_write(tmp_path / "file.txt", partial=given, sync=True) as partial:
        assert partial == tmp_path / own
        partial.write_text("new")
    assert os.listdir(tmp_path) == ["file.txt"]


@pytest.mark.parametrize("length", [247, 248, 255])
def test_the_longest_names(tmp_path: Path, length: int) -> None:
    """With ".partial" a name of 248 characters or more would be too long."""
    name = "n" * (length - 4) + ".txt"
    with atomic_write(tmp_path / name) as partial:
        partial.write_text("new")
    assert os.listdir(tmp_path) == [name]
    assert (tmp_path / name).read_text() == "new"


def test_a_device_is_not_replaced(tmp_path: Path) -> None:
    assert is_device(Path("/dev/null"))
    assert is_device(Path("/dev/stdout"))
    assert not is_device(tmp_path)
    assert not is_device(tmp_path / "new")
    device = tmp_path / "device"
    os.mkfifo(device)
    assert is_device(device)
    with atomic_write(device) as partial:
        assert partial == device
    assert [path.name for path in tmp_path.iterdir()] == ["device"]
    assert stat.S_ISFIFO(device.stat().st_mode)
