"""Names of files and classes as text."""

import os

import pytest

from vswin_jax.runtime.printable import encodable, printable


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"plain name.mp4", "plain name.mp4"),
        (b"caf\xe9.mp4", r"caf\xe9.mp4"),
        (b"\xff\xfe", r"\xff\xfe"),
        (b"two\nlines\t\r", r"two\nlines\t\r"),
        (b"\x1b[31mred", r"\x1b[31mred"),
        ("über 跑步 שלום 😀".encode(), "über 跑步 שלום 😀"),
        ("👩\u200d🚀".encode(), "👩\u200d🚀"),
        ("a\u2028b".encode(), r"a\u2028b"),
        (b"back\\slash", r"back\slash"),
    ],
)
def test_every_name_is_one_line_of_text(name: bytes, shown: str) -> None:
    assert printable(os.fsdecode(name)) == shown
    shown.encode("utf-8")


def test_only_surrogates_keep_a_name_from_being_encoded() -> None:
    assert encodable("a\udce9\n\u2028b\ud800") == "a\\xe9\n\u2028b\\ud800"
