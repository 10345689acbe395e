"""CSV files as spreadsheet programs, pandas and hands write them."""

import shutil
from pathlib import Path

import pytest

from vswin_jax.data import open_source

from .conftest import open_error, touch

LISTS = Path(__file__).parent / "lists"
ROWS = "path,label\na.mp4,run\nb.mp4,jump\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    touch(tmp_path, "a.mp4", "b.mp4", "x, y.mp4", "n\nl.mp4")
    return tmp_path


def _content(path: Path, text: str | bytes, **options: bool) -> list[tuple[str, str]]:
    """Return (path, class name) of the videos that a list has."""
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    source = open_source(path, **options)
    examples = [source[index] for index in range(len(source))]
    return [(example.name, source.label_names[example.label]) for example in examples]


def test_a_quoted_cell_with_a_line_break_is_one_cell(folder: Path) -> None:
    shutil.copy(LISTS / "newline.csv", folder)
    source = open_source(folder / "newline.csv")
    assert [source[index].name for index in (0, 1)] == ["n\nl.mp4", "b.mp4"]
    assert source.labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    "text",
    [
        ROWS,
        ROWS.replace("\n", "\r\n"),
        ROWS.replace("\n", "\r"),
        ROWS.replace(",", ";"),
        ROWS.replace(",", "\t"),
        "sep=;\r\n" + ROWS.replace(",", ";"),
        "\ufeff" + ROWS,
        "\n" + ROWS + ",\n\n , \n",
        ROWS.replace("\n", ",\n"),
        'path, label\n"a.mp4", "run"\n"b.mp4", "jump"\n',
        'note;path;label\n"1,5;";a.mp4;run\n2;b.mp4;jump',
        "Path,Label,x,x\na.mp4,run,1,2\nb.mp4,jump,3\n",
        ROWS.encode("utf-16"),
    ],
)
def test_tables_with_the_same_content(folder: Path, text: str | bytes) -> None:
    assert _content(folder / "l.csv", text) == [("a.mp4", "run"), ("b.mp4", "jump")]


def test_a_tsv_file_is_a_table(folder: Path) -> None:
    rows = "path\tlabel\nx, y.mp4\tsit down\n"
    assert _content(folder / "l.tsv", rows) == [("x, y.mp4", "sit down")]


def test_semicolons_between_cells_and_between_labels(folder: Path) -> None:
    path = folder / "l.csv"
    path.write_text('path;label\na.mp4;"run;jump"\nb.mp4;run\n')
    source = open_source(path, multi_label=True)
    assert source.label_names == ("jump", "run")
    assert source.labels == ((0, 1), (1,))


def test_characters_that_end_no_line(folder: Path) -> None:
    """Unlike `str.splitlines`, which splits at each of them."""
    names = "ju\u2028mp", "r\x0cun", "ice\x85hockey", "x\x1cy", "v\x0bw", "p\u2029q"
    rows = "".join(f"a.mp4,{name}\n" for name in names)
    assert _content(folder / "l.csv", f"path,label\n{rows}") == [("a.mp4", n) for n in names]


def test_a_line_break_in_a_label_is_a_space(folder: Path) -> None:
    text = 'path,label\r\na.mp4,"brush\r\nteeth"\r\nb.mp4,brush teeth\r\n'
    assert _content(folder / "l.csv", text) == [("a.mp4", "brush teeth"), ("b.mp4", "brush teeth")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('path,label\n"n\nl.mp4",run\n\nb.mp4,\n', "line 5: expected a path and a label"),
        ("path,label\nx, y.mp4,run\n", "line 2: expected 2 cells as in the header"),
        ('path,label\na.mp4,run\n"b.mp4,run\na.mp4,run\n', "line 3: this row is not CSV"),
        ('path,label\n"x, y".mp4,run\n', "line 2: this row is not CSV"),
        (f"path,label\na.mp4,run\n{'x' * 140_000},run\n", "line 3: this row is not CSV"),
        (f"{'x' * 140_000},path,label\n1,a.mp4,run\n", "line 1: this row is not CSV"),
        ("path,label,Label\na.mp4,run,3\n", "once but 'label' comes 2 times"),
        ("a.mp4 0\nb.mp4 1\n", "set the data format to list for lines of `path label`"),
        ("", "must open with a header"),
        ("path,label\na.mp4,r\0n\n", "is not a text file in UTF-8 (see line 2)"),
        ("path,label\n", "lists no videos"),
    ],
)
def test_tables_that_are_refused(folder: Path, text: str, message: str) -> None:
    path = folder / "l.csv"
    path.write_text(text)
    assert message in open_error(path)


def test_kinetics_list_with_semicolons_line_breaks_and_a_mark(tmp_path: Path) -> None:
    touch(tmp_path, "x_000001_000002.mp4", "y_000001_000002.mp4")
    header = "label,youtube_id,time_start,time_end,split\r\n"
    rows = '"air\r\ndrumming",x,1,2,train\r\nair drumming,y,1,2,train\r\n'
    text = (header + rows).encode("utf-8-sig")
    assert [name for _, name in _content(tmp_path / "train.csv", text)] == ["air drumming"] * 2
    (tmp_path / "train.csv").write_bytes((header + rows + "run,z,1,two,train\r\n").encode("utf-16"))
    assert "line 5: expected `label,youtube_id,seconds,seconds`" in open_error(
        tmp_path / "train.csv"
    )
