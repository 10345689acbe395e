"""Every command line of README and docs has a program, arguments and settings that exist."""

import importlib
import re
import runpy
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from vswin_jax.config import base_config, flags

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))))
_PYTHON = re.compile(
    r"(?:^|[|&] *|\$ *)python3? (-m vswin_jax\.\w+|(?:scripts|benchmarks)/\S+\.py)(.*)"
)


def command_lines(page: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the program and the arguments of each command line in the blocks of code of a page."""
    text = (ROOT / page).read_text(encoding="utf-8").replace("\\\n", " ")
    for line in text.splitlines():
        if found := _PYTHON.search(line.removeprefix("    ")):
            arguments = shlex.split(found[2], comments=True)
            yield found[1], [argument for argument in arguments if argument != "..."]


COMMANDS = [
    pytest.param(program, arguments, id=f"{page}:{program} {' '.join(arguments)}"[:120])
    for page in PAGES
    for program, arguments in command_lines(page)
]


@pytest.mark.parametrize(("program", "arguments"), COMMANDS)
def test_the_command_line_is_accepted(
    program: str, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if program == "-m vswin_jax.main":
        check_run(arguments)
        return
    monkeypatch.chdir(tmp_path)
    if program.startswith("benchmarks/"):
        source = (ROOT / program).read_text(encoding="utf-8")
        assert all(f'"{name}"' in source for name in arguments if name.startswith("--"))
    elif program.startswith("scripts/launch/"):
        assert (ROOT / program).is_file()
    elif program.startswith("-m "):
        importlib.import_module(program.removeprefix("-m "))._parser().parse_args(arguments)
    else:
        _, rest = runpy.run_path(str(ROOT / program))["_parser"]().parse_known_args(arguments)
        assert all(argument.startswith("--config.") for argument in rest)


def check_run(arguments: list[str]) -> None:
    """Check the arguments of a run: its config file, the values of settings, the other flags."""
    settings = [argument for argument in arguments if argument.startswith("--config.")]
    # The modules of docs/extending.md are not here; tests/test_extending.py runs its commands.
    checked = [text for text in settings if not re.search(r"^--config.plugins=|=\.\.\.$", text)]
    flags.override(base_config(), checked)
    for flag in set(arguments) - set(settings):
        if flag.startswith("--"):
            assert flag.partition("=")[0] in flags.USAGE
    if "--config" in arguments:
        file = arguments[arguments.index("--config") + 1].partition(":")[0]
        assert file == "my_video/recipe.py" or (ROOT / file).is_file()


def test_command_lines_are_found() -> None:
    assert len(COMMANDS) > 40
    assert {program for program, _ in command_lines("README.md")} >= {"-m vswin_jax.main"}
