"""Plain lists and JSON lines as users write them."""

import json
import shutil
from pathlib import Path

import pytest

from vswin_jax.data import open_source
from vswin_jax.data.sources.sources import VideoSource

from .conftest import open_error, touch

LISTS = Path(__file__).parent / "lists"


def _content(source: VideoSource) -> list[tuple[str, str]]:
    """Return (path, class name) of every video."""
    examples = [source[index] for index in range(len(source))]
    return [(example.name, source.label_names[example.label]) for example in examples]


@pytest.mark.parametrize("name", ["u2028.txt", "u2028.jsonl"])
def test_a_line_separator_is_part_of_a_name(tmp_path: Path, name: str) -> None:
    touch(tmp_path, "g\u2028h.mp4", "b.mp4")
    shutil.copy(LISTS / name, tmp_path)
    assert _content(open_source(tmp_path / name)) == [("g\u2028h.mp4", "jump"), ("b.mp4", "run")]


def test_only_spaces_and_tabs_separate_the_fields_of_a_line(tmp_path: Path) -> None:
    touch(tmp_path, "at 3.45\u202fPM.mp4", "b.mp4")
    path = tmp_path / "l.txt"
    path.write_text("at 3.45\u202fPM.mp4\t ice\u00a0hockey \nb.mp4 r\x0cu\x85n\n", encoding="utf-8")
    expected = [("at 3.45\u202fPM.mp4", "ice\u00a0hockey"), ("b.mp4", "r\x0cu\x85n")]
    assert _content(open_source(path)) == expected


@pytest.mark.parametrize(
    "content",
    [
        "a.mp4 run\r\nb.mp4 jump\r\n".encode("utf-16"),
        b"\xfe\xff" + "a.mp4 run\nb.mp4 jump".encode("utf-16-be"),
        "\ufeffa.mp4 run\n\ufeffb.mp4 jump\n".encode(),
        b"a.mp4 run\rb.mp4 jump\r",
    ],
    ids=["PowerShell", "big-endian", "joined", "CR"],
)
def test_lists_in_other_encodings_and_with_other_line_ends(tmp_path: Path, content: bytes) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    (tmp_path / "l.txt").write_bytes(content)
    assert _content(open_source(tmp_path / "l.txt")) == [("a.mp4", "run"), ("b.mp4", "jump")]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("a.mp4 run\nb.mp4 jümp\n".encode("cp1252"), 2),
        ("a.mp4 run\nb.mp4 jump\n".encode("utf-16-le"), 1),
        (b"a.mp4 run\n" + b"\0" * 4096, 2),
    ],
    ids=["Windows", "no mark", "zeros"],
)
def test_files_that_are_not_text_in_utf8(tmp_path: Path, content: bytes, line: int) -> None:
    (tmp_path / "l.txt").write_bytes(content)
    message = open_error(tmp_path / "l.txt")
    assert f"is not a text file in UTF-8 (see line {line}): save it in UTF-8" in message


def test_numbers_of_json_are_labels(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    path = tmp_path / "l.jsonl"
    records = [{"path": "a.mp4", "label": 1.0}, {"path": "b.mp4", "label": 0}]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert _content(open_source(path)) == [("a.mp4", "1"), ("b.mp4", "0")]
    path.write_text('{"path": "a.mp4", "label": [0.0, 2.0]}\n{"path": "b.mp4", "label": 1}\n')
    assert open_source(path, multi_label=True).labels == ((0, 2), (1,))


@pytest.mark.parametrize(
    "line",
    [
        '{"path": "a.mp4", "label": NaN}',
        '{"path": "a.mp4", "label": null}',
        '{"path": "a.mp4", "label": " "}',
        '{"path": 3, "label": 0}',
        '{"path": "a\\u0000.mp4", "label": 0}',
        '{"path": "a\\ud800.mp4", "label": 0}',
        '{"path": "a.mp4", "label": ' + "9" * 5000 + "}",
        "[" * 200_000,
    ],
    ids=["NaN", "null", "blank", "path", "NUL", "surrogate", "digits", "nested"],
)
def test_json_lines_that_are_refused(tmp_path: Path, line: str) -> None:
    touch(tmp_path, "a.mp4")
    path = tmp_path / "l.jsonl"
    path.write_text(line + "\n" if line[0] == "[" else f'{{"path": "a.mp4", "label": 0}}\n{line}\n')
    assert f"line {1 if line[0] == '[' else 2}: expected " in open_error(path)


def test_errors_in_a_json_array_name_the_line(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4")
    path = tmp_path / "l.json"
    records = [{"path": "a.mp4", "label": "run"}, {"path": "gone.mp4", "label": "run"}]
    path.write_text(json.dumps(records, indent=1))
    assert "line 6: there is no 'gone.mp4'" in open_error(path)
    path.write_text(json.dumps([*records, "a.mp4"], indent=1))
    assert "line 10: expected an object" in open_error(path)


def test_a_video_with_two_labels_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    path = tmp_path / "l.txt"
    path.write_text("a.mp4 run\nb.mp4 run\nb.mp4 run\n\na.mp4 jump\n")
    assert len(open_source(path)) == 4
    (message,) = caplog.messages
    assert message.startswith(f"1 lines of {str(path)!r} give a video another label")
    assert "line 5 after line 1 for 'a.mp4'" in message


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("sub\\a.mp4 run", "write / between folders instead of \\."),
        ('"sub/a.mp4" run', "leave out the quotes"),
        ("sub/fu\u0308nf.mp4 run", "in another form of Unicode"),
        ("sub/b.mp4 run", "correct the list or the root"),
    ],
)
def test_missing_files_that_are_written_otherwise(tmp_path: Path, line: str, hint: str) -> None:
    touch(tmp_path, "sub/a.mp4", "sub/f\u00fcnf.mp4")
    (tmp_path / "l.txt").write_text(f"{line}\n", encoding="utf-8")
    assert hint in open_error(tmp_path / "l.txt")
