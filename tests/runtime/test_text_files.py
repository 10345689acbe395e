"""The encodings and lines of text files."""

from pathlib import Path

import pytest

from vswin_jax.errors import InputError
from vswin_jax.runtime.text_files import bad_line, numbered_lines, read_head, read_text, split_lines


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"], ids=str
)
def test_encodings_with_their_marks(tmp_path: Path, encoding: str) -> None:
    text = "jump\r\nfünf 🏃\n"
    mark = "\ufeff" if encoding.endswith(("-le", "-be")) else ""
    (tmp_path / "l.txt").write_bytes((mark + text).encode(encoding))
    assert read_text(str(tmp_path / "l.txt")) == text
    assert read_head(str(tmp_path / "l.txt"), 7) == "jump\nfü"


def test_a_head_may_end_within_a_character_or_be_no_text(tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_bytes(b"a\xff" + "🏃".encode()[:2])
    assert read_head(str(tmp_path / "l.txt"), 3) == "a\ufffd\ufffd"


@pytest.mark.parametrize(
    "content", [b"a\xff", b"a\0", b"\xff\xfe", b"\xff\xfe\xfd\xff", b"\xff\xfea"]
)
def test_files_that_are_not_text(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "l.txt").write_bytes(content)
    with pytest.raises(InputError, match=r"is not a text file in UTF-8 \(see line 1\)"):
        read_text(str(tmp_path / "l.txt"))


def test_only_line_feeds_and_carriage_returns_end_lines() -> None:
    text = "a\x0b\x0c\x1c\x85\u2028b\r\nc\rd\n\n e"
    assert split_lines(text) == ["a\x0b\x0c\x1c\x85\u2028b", "c", "d", "", " e"]
    assert list(numbered_lines(text))[1:] == [(2, "c"), (3, "d"), (5, " e")]


def test_long_lines_are_cut_in_errors() -> None:
    message = str(bad_line("l.txt", 3, "`path label`", "x" * 1000))
    assert message == f"'l.txt', line 3: expected `path label` but it reads '{'x' * 300}...'."
