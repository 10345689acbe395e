"""README and docs: links lead somewhere, pages are in the navigation, the API page is complete."""

import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import vswin_jax

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = (
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    ROOT / "benchmarks" / "README.md",
    *sorted(DOCS.glob("*.md")),
)
_LINK = re.compile(r"!?\[[^]]*\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)


def prose(page: Path) -> str:
    """Return the text of a page without its blocks of code."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    return "\n".join(line for line in text.splitlines() if not line.startswith("    "))


def headings(page: Path) -> list[str]:
    return re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Return the anchors that MkDocs and GitHub both give to the headings of a page."""
    plain = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading) for heading in headings(page)]
    mkdocs = {mkdocs_anchor(heading) for heading in plain}
    return mkdocs & {github_anchor(heading) for heading in plain}


def mkdocs_anchor(heading: str) -> str:
    """As `slugify` of Python-Markdown's extension `toc` does."""
    ascii_only = unicodedata.normalize("NFKD", heading).encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", ascii_only).strip().lower())


def github_anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def links(page: Path) -> Iterator[str]:
    """Yield the links of a page that are not addresses."""
    yield from (link for link in _LINK.findall(prose(page)) if not re.match(r"[a-z]+:", link))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_relative_links_and_their_anchors_exist(page: Path) -> None:
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.is_file(), f"{page.name} links to {link}"
        if anchor:
            assert anchor in anchors(target), f"{page.name} links to {link}"


def test_links_are_found() -> None:
    assert sum(1 for page in PAGES for _ in links(page)) > 40


def test_every_page_is_in_the_navigation_once() -> None:
    navigation = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    assert sorted(listed_pages(navigation)) == sorted(page.name for page in DOCS.glob("*.md"))


def listed_pages(entries: list) -> Iterator[str]:
    for entry in entries:
        for target in entry.values():
            yield from [target] if isinstance(target, str) else listed_pages(target)


def test_every_picture_is_on_a_page() -> None:
    shown = {Path(link).name for page in PAGES for link in links(page)}
    pictures = {path.name for path in DOCS.iterdir() if path.suffix in (".png", ".svg")}
    assert len(pictures) > 4
    assert pictures <= shown


def test_the_api_page_has_every_public_name() -> None:
    page = (DOCS / "api.md").read_text(encoding="utf-8")
    named = [name.rpartition(".")[2] for name in re.findall(r"^::: (\S+)$", page, re.MULTILINE)]
    assert len(named) == len(set(named))
    assert set(vswin_jax.__all__) <= set(named)


def test_the_readme_is_a_way_in() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150
    commands = [line for line in lines if line.startswith("    python3 -m venv")]
    assert len(commands) == 2
    assert commands[1].endswith('pip install -e ".[test]" && python -m pytest -n auto')
