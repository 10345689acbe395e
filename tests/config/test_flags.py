"""Paths on the command line: colons, the home directory, files that cannot be read."""

import os
from pathlib import Path

import pytest

from vswin_jax.config import flags
from vswin_jax.config.overrides import PATH_KEYS
from vswin_jax.errors import InputError

EXPERIMENT = """
from vswin_jax.config import base_config, parse_argument
def get_config(argument):
    config = base_config()
    config.name = argument
    return config
"""


@pytest.mark.parametrize(
    ("file", "argument"),
    [
        ("plain.py", ""),
        ("plain.py", "a"),
        ("plain.py", "root=/x:y,z"),
        ("a:b.py", ""),
        ("a:b.py", "c:d"),
        ("of:all/plain.py", "c"),
    ],
)
def test_colons_in_files_and_arguments(
    file: str, argument: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "of:all").mkdir()
    (tmp_path / file).write_text(EXPERIMENT)
    monkeypatch.setenv("HOME", str(tmp_path))
    for folder in ("~", tmp_path):
        path = f"{folder}/{file}:{argument}" if argument else f"{folder}/{file}"
        assert flags.load(path).name == argument


def test_a_missing_file_is_named_without_its_argument(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"but '.*/no\.py' does not exist"):
        flags.load(f"{tmp_path}/no.py:root=/a:b")


def test_the_home_directory_in_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plain.py").write_text(EXPERIMENT)
    monkeypatch.setenv("HOME", "/home/of/me")
    overrides = [f"--config.{key}=~/x" for key in PATH_KEYS]
    config = flags.override(flags.load(f"{tmp_path}/plain.py"), overrides)
    for key in PATH_KEYS:
        value = config
        for name in key.split("."):
            value = value[name]
        assert value == "/home/of/me/x", key
    assert config.is_locked
    assert os.environ["HOME"] == "/home/of/me"
