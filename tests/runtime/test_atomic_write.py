"""Atomic file writes."""

import os
from pathlib import Path

import pytest

from vswin_jax.runtime.atomic_write import atomic_write


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
