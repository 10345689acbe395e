"""`scripts/document_config.py`: docs/config.md has every setting with the comment in base.py."""

import runpy
from pathlib import Path
from typing import Any

import pytest

from vswin_jax.config import base_config

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "scripts" / "document_config.py"))


@pytest.fixture(scope="module")
def source(script: dict[str, Any]) -> str:
    return script["SOURCE"].read_text(encoding="utf-8")


def test_the_page_is_that_of_todays_settings(script: dict[str, Any], source: str) -> None:
    written = script["PAGE"].read_text(encoding="utf-8")
    assert written == script["page"](source), "run python scripts/document_config.py"


def test_the_page_has_every_setting_with_its_comment(script: dict[str, Any], source: str) -> None:
    paths = list(script["setting_paths"](base_config()))
    assert len(paths) > 90
    rows = script["PAGE"].read_text(encoding="utf-8").splitlines()
    for path in paths:
        (row,) = (row for row in rows if row.startswith(f"| `{path}` |"))
        assert len(row.split(" | ")[-1]) > len("to |"), row


def test_comments_come_from_behind_or_above(script: dict[str, Any]) -> None:
    source = (
        "def _data():\n"
        "    data = ConfigDict()\n"
        "    # Above,\n"
        "    # in two lines.\n"
        "    data.a = 1\n"
        "    data.b = '#'  # behind\n"
        "    data.c = 2\n"
    )
    expected = {"data.a": "Above, in two lines.", "data.b": "behind", "data.c": ""}
    assert script["descriptions"](source) == expected


def test_a_setting_without_a_comment_is_an_error(script: dict[str, Any], source: str) -> None:
    (line,) = (line for line in source.splitlines() if "config.seed = 0" in line)
    with pytest.raises(KeyError, match="seed"):
        script["page"](source.replace(line, "    config.seed = 0"))
