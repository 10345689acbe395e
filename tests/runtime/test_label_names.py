"""The file of class names."""

from pathlib import Path

import pytest

from vswin_jax.errors import InputError
from vswin_jax.runtime.label_names import (
    normalize_label_name,
    read_label_names,
    write_label_names,
)


def test_label_names_are_written_in_order(tmp_path: Path) -> None:
    write_label_names(tmp_path / "label_names.txt", ["swim", "jump high", "fünf"])
    assert [path.name for path in tmp_path.iterdir()] == ["label_names.txt"]
    text = (tmp_path / "label_names.txt").read_text(encoding="utf-8")
    assert text == "swim\njump high\nfünf\n"


def test_blank_lines_and_white_space_are_ignored(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text(" swim \n\njump high\n")
    assert read_label_names(tmp_path / "names.txt") == ("swim", "jump high")


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfjump\nru\xcc\x88n\n",
        "jump\r\nrün\r\n".encode("utf-16"),
        b"jump\rru\xcc\x88n",
        "\ufeffjump\n\ufeffrün\n".encode(),
    ],
    ids=["mark and NFD", "PowerShell", "CR", "joined"],
)
def test_names_in_other_encodings_and_forms(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "names.txt").write_bytes(content)
    assert read_label_names(tmp_path / "names.txt") == ("jump", "r\u00fcn")


def test_names_are_read_as_they_were_written(tmp_path: Path) -> None:
    """White space that ends no line is part of a name, unlike white space around it."""
    names = ("a\u2028b", "c\x0cd", "e\x85f", "g\u00a0h")
    assert tuple(map(normalize_label_name, names)) == names
    write_label_names(tmp_path / "names.txt", names)
    assert read_label_names(tmp_path / "names.txt") == names


def test_normalised_names() -> None:
    assert normalize_label_name(" fu\u0308nf ") == "f\u00fcnf"
    assert normalize_label_name("brush\r\n teeth\n") == "brush teeth"


@pytest.mark.parametrize(
    ("content", "cause"), [(None, "No such file or directory"), (b"\xff\xfe", "not UTF-8")]
)
def test_an_unreadable_file_is_named_with_the_cause(
    tmp_path: Path, content: bytes | None, cause: str
) -> None:
    path = tmp_path / "names.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=rf"names\.txt' cannot be read \({cause}\): correct"):
        read_label_names(path)
