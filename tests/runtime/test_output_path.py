"""Paths that a command writes to: what is refused, and that nothing is created."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from vswin_jax.errors import InputError
from vswin_jax.runtime.output_path import local_path, output_directory, output_file
from vswin_jax.runtime.script_parser import script_parser, writable_file

ROOT = Path(__file__).parents[2]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder that holds a file, a link to nothing and a folder, the working directory."""
    (tmp_path / "file").write_text("kept")
    (tmp_path / "link").symlink_to("nothing")
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("path", ["folder", "folder/new/newer", "new", "."])
def test_a_directory_may_be_missing(here: Path, path: str) -> None:
    assert output_directory(path, "--out") == Path(path)
    assert sorted(os.listdir(here)) == ["file", "folder", "link"]
    assert os.listdir(here / "folder") == []


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("file", "file' is a file"),
        ("file/a/b", "file' is a file"),
        ("link", "link' is a link to nothing"),
        ("a" * 300, "File name too long"),
        ("/proc/new", "No such file or directory"),
        (os.fsdecode(b"caf\xe9"), "its name is not UTF-8"),
        ("gs://bucket/run", "a path on this machine"),
        ("s3://bucket/run", "a path on this machine"),
        ("file:///tmp/run", "a path on this machine"),
        ("~nobody_of_this_name/run", "home directory"),
    ],
)
def test_a_directory_that_cannot_be_written(here: Path, path: str, reason: str) -> None:
    with pytest.raises(InputError, match=r"^Expected --out to be a ") as caught:
        output_directory(path, "--out")
    assert reason in str(caught.value)
    assert sorted(os.listdir(here)) == ["file", "folder", "link"]


@pytest.mark.parametrize("path", ["file", "new", "folder/new", "no/new", "a" * 255, "/dev/null"])
def test_a_file_may_exist(here: Path, path: str) -> None:
    assert output_file(path, "--out") == Path(path)
    assert (here / "file").read_text() == "kept"
    assert not (here / "no").exists()


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("folder", "it is a directory"),
        ("file/new", "file' is a file"),
        ("a" * 256, "File name too long"),
        ("https://host/file", "a path on this machine"),
    ],
)
def test_a_file_that_cannot_be_written(here: Path, path: str, reason: str) -> None:
    with pytest.raises(InputError, match=r"^Expected --out to be a ") as caught:
        output_file(path, "--out")
    assert reason in str(caught.value)


def test_the_directory_of_a_file_may_have_to_exist(here: Path) -> None:
    with pytest.raises(InputError, match=r"its directory is '.*/no', which does not exist"):
        output_file("no/new", "--out", parent_must_exist=True)


def test_the_home_directory(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(here))
    assert local_path("~/run", "--out") == here / "run"
    assert output_directory("~/folder", "--out") == here / "folder"
    os.mkdir("~odd")
    assert local_path("~odd", "--out") == Path("~odd")


def test_the_type_of_an_argument(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = script_parser("Test: of a parser.")
    parser.add_argument("--json", type=writable_file)
    assert parser.parse_args(["--json=new.json"]).json == Path("new.json")
    with pytest.raises(SystemExit) as caught:
        parser.parse_args(["--json=folder"])
    assert caught.value.code == 2
    assert "argument --json: Expected the path to be a file" in capsys.readouterr().err


PROGRAM = """
import os, sys
from vswin_jax.errors import InputError
from vswin_jax.runtime.output_path import output_directory, output_file
if os.getuid() == 0:
    os.setgid(12345), os.setuid(12345)
for check, path in ((output_directory, "shut/run"), (output_file, "shut/file"),
                    (output_directory, "hidden/run"), (output_file, "sticky/file")):
    try:
        print(check(path, "--out"))
    except InputError as error:
        print(str(error).partition("(")[2].partition(")")[0])
"""


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """Return a temporary directory that every user can reach, unlike `tmp_path`."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name).resolve()
        directory.chmod(0o755)
        yield directory


def test_what_permissions_forbid(open_directory: Path) -> None:
    """Root may write everywhere, so the program becomes another user."""
    for name, mode in (("shut", 0o555), ("hidden", 0o000), ("sticky", 0o1777)):
        (open_directory / name).mkdir()
        (open_directory / name / "file").write_text("")
        (open_directory / name).chmod(mode)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=open_directory,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    *shut, sticky = done.stdout.splitlines()
    assert shut == ["Permission denied"] * 3
    # Without root the file belongs to the user.
    assert sticky == ("it belongs to another user" if os.getuid() == 0 else "sticky/file")
    (open_directory / "hidden").chmod(0o755)
