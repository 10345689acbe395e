"""Documents and files that the texts of this repository refer to: a reader has all of them."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("vswin_jax", "experiments", "scripts", "benchmarks")
# A file of this repository by its path.
_PATH = re.compile(
    r"(?<![\w/.{}-])(?:vswin_jax|experiments|scripts|benchmarks|tests|docs)/[\w/.-]+\."
    r"(?:py|md|sh|png)(?![\w/])"
)
# Notes of those who wrote this, which nobody else has.
_UNKNOWN = re.compile(r"(?i)reference\s+facts|swin_facts|jax_stack_notes|house_moves|/work/")


def texts() -> list[Path]:
    sources = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    return [*sources, ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]


def test_every_file_that_a_text_names_is_in_the_repository() -> None:
    named = {
        f"{name} in {path.name}": ROOT / name
        for path in texts()
        for name in _PATH.findall(path.read_text())
    }
    assert len(named) > 50
    assert [where for where, file in named.items() if not file.exists()] == []


def test_no_text_refers_to_notes_that_are_not_published() -> None:
    assert [path.name for path in texts() if _UNKNOWN.search(path.read_text())] == []
