"""Writes the page of all settings from `vswin_jax/config/base.py`: run it without arguments.

    python scripts/document_config.py

docs/config.md gets a table for each section of the config: every setting with its type, its default
and its description, which is the comment behind it in that file, or the comment above it. A test
compares the page with the file.
"""

import ast
import dataclasses
import functools
import sys
import tokenize
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from vswin_jax.config import base_config
from vswin_jax.models import SwinTransformer3D
from vswin_jax.runtime.script_parser import script_parser
from vswin_jax.runtime.standard_streams import run_script

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "vswin_jax" / "config" / "base.py"
PAGE = ROOT / "docs" / "config.md"
HEADER = """\
# Config reference

<!-- Written by scripts/document_config.py from vswin_jax/config/base.py: change that file. -->

A setting is written `--config.NAME=VALUE` on the command line and `config.NAME = VALUE` in a
[recipe](recipes.md). A wrong name fails at once and lists the nearest ones, also for the words of
timm, mmaction2 and Hugging Face. Values are read as people write them (`1e3`; `2,2,6,2`; `8x7x7`;
`yes`). The defaults are what the published recipes of Kinetics-400 have in common; `config.json` in
a run's directory has the values that the run used.
"""
# Sections by the variables of base.py whose name is another.
SECTIONS = {"config": "", "evaluation": "eval", "shapes": "data.shapes"}
# Of sections that have no function of their own.
INTRODUCTIONS = {"": "The run as a whole.", "data.rand_augment": "RandAugment."}
COLUMNS = ("| setting | type | default | meaning |", "|---|---|---|---|")


def run(arguments: Sequence[str]) -> int:
    """Write the page and return the exit status."""
    script_parser(__doc__).parse_args(arguments)
    PAGE.write_text(page(SOURCE.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


def page(source: str) -> str:
    """Return the page in Markdown; `source` is the text of base.py, whose order it keeps.

    Raises:
      KeyError: a setting has no description.
    """
    described, introduced = descriptions(source), introductions(source)
    missing = set(setting_paths(base_config())) - {path for path in described if described[path]}
    if missing:
        raise KeyError(f"{sorted(missing)} have no comment in base.py: write them.")
    rows: dict[str, list[str]] = {}
    for path, text in described.items():
        rows.setdefault(path.rpartition(".")[0], []).append(_row(path, text))
    tables = [
        "\n".join([f"## {name or 'config'}", "", introduced[name], "", *COLUMNS, *of_section, ""])
        for name, of_section in rows.items()
    ]
    return "\n".join([HEADER, *tables])


def setting_paths(config: ConfigDict, section: str = "") -> Iterator[str]:
    """Yield the paths of all settings, such as "data.rand_augment.n"."""
    for name in config:
        path = join(section, name)
        if isinstance(config[name], ConfigDict):
            yield from setting_paths(config[name], path)
        else:
            yield path


def join(section: str, name: str) -> str:
    """Return the path of a setting or a section."""
    return f"{section}.{name}" if section else name


def descriptions(source: str) -> dict[str, str]:
    """Return the comment of each setting, by its path: behind the assignment, or above it."""
    comments, own_lines = _comments(source)
    found = {}
    for node in _assignments(source):
        variable, _, name = ast.unparse(node.targets[0]).partition(".")
        path = join(SECTIONS.get(variable, variable), name)
        first = node.lineno
        while first - 1 in own_lines:
            first -= 1
        lines = range(first, (node.end_lineno or first) + 1)
        found[path] = " ".join(comments[line] for line in lines if line in comments)
    return found


def _assignments(source: str) -> list[ast.Assign]:
    """Return the assignments to attributes that are settings, in the order of the lines."""
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Assign)]
    settings = [
        node
        for node in nodes
        if isinstance(node.targets[0], ast.Attribute) and not _makes_section(node.value)
    ]
    return sorted(settings, key=lambda node: node.lineno)


def _makes_section(value: ast.expr) -> bool:
    """Return True for `ConfigDict()` and for the call of a section's function."""
    name = ast.unparse(value.func) if isinstance(value, ast.Call) else ""
    return name == "ConfigDict" or name.startswith("_")


def _comments(source: str) -> tuple[dict[int, str], set[int]]:
    """Return the comments by their lines, and the lines that have nothing else."""
    comments, own_lines = {}, set()
    lines = iter(source.splitlines(keepends=True))
    for token in tokenize.generate_tokens(lambda: next(lines, "")):
        if token.type == tokenize.COMMENT:
            comments[token.start[0]] = token.string.lstrip("# ")
            if not token.line[: token.start[1]].strip():
                own_lines.add(token.start[0])
    return comments, own_lines


def introductions(source: str) -> dict[str, str]:
    """Return the docstring of the function of each section, by the section, without its verb."""
    found = dict(INTRODUCTIONS)
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("_"):
            name = node.name.removeprefix("_")
            text = (ast.get_docstring(node) or "").removeprefix("Build the ")
            found[SECTIONS.get(name, name)] = text[:1].upper() + text[1:]
    return found


def _row(path: str, description: str) -> str:
    section, _, name = path.rpartition(".")
    config = functools.reduce(getattr, filter(None, section.split(".")), base_config())
    kind = config.get_type(name).__name__
    default = _typed(config[name])
    if config[name] is None and name not in ("num_classes", "qk_scale"):
        default = f"None ({_of_variants(name)})"
    return f"| `{path}` | {kind} | {default} | {description.replace('|', chr(92) + '|')} |"


def _of_variants(name: str) -> str:
    """Return the value that a field of the model has in all variants."""
    fields = {field.name: field.default for field in dataclasses.fields(SwinTransformer3D)}
    return "by variant" if fields[name] is dataclasses.MISSING else _typed(fields[name])


def _typed(value: Any) -> str:
    """Return a value as it is typed on the command line."""
    if value is None or value == "":
        return "None" if value is None else "empty"
    if isinstance(value, tuple):
        value = ",".join(f"{number:.4g}" for number in value) or "()"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


if __name__ == "__main__":
    sys.exit(run_script(run))
