"""Command lines of scripts: a parser whose --help is the script's docstring, types and errors."""

import argparse
import difflib
import itertools
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from vswin_jax.errors import InputError
from vswin_jax.runtime.output_path import output_file
from vswin_jax.runtime.printable import printable
from vswin_jax.runtime.standard_streams import print_message

_MOST_REASONS = 20


class SuggestingParser(argparse.ArgumentParser):
    """A parser that names the near arguments of a misspelt one."""

    def parse_args(
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> argparse.Namespace:
        """Parse arguments; a misspelt one is reported before one that is missing."""
        args = sys.argv[1:] if args is None else [*args]
        for text in itertools.takewhile("--".__ne__, args):
            name = text.partition("=")[0]
            if name.startswith("--") and not self._is_known(name):
                near = difflib.get_close_matches(name, self._option_string_actions, n=1)
                hint = f": did you mean {near[0]}?" if near else ", see --help"
                self.error(f"unknown argument {name}{hint}")
        return super().parse_args(args, namespace)

    def _is_known(self, name: str) -> bool:
        """Return True for an argument, or the beginning of one."""
        return any(option.startswith(name) for option in self._option_string_actions)


def script_parser(docstring: str | None, **options: Any) -> argparse.ArgumentParser:
    """Build a parser whose help is `docstring`: its first line up to a colon, then its other lines.

    `options` are those of `argparse.ArgumentParser`.
    """
    first_line, _, rest = (docstring or "").partition("\n")
    return SuggestingParser(
        description=first_line.partition(":")[0] + ".",
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        **options,
    )


def command_parser(docstring: str | None, verb: str) -> argparse.ArgumentParser:
    """Build the parser of `python -m vswin_jax.VERB`; its last paragraph is about Python alone."""
    text = (docstring or "").partition("\n\nFrom Python the module itself")[0]
    return script_parser(text, prog=f"python -m vswin_jax.{verb}")


def positive_int(text: str) -> int:
    """Parse a whole number from 1 up, as the `type` of an argument."""
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"expected 1 or more but {text!r} came")
    return int(text)


def writable_file(text: str) -> Path:
    """Parse the path of a file to write, as the `type` of an argument, and check that it can be."""
    try:
        return output_file(text, "the path")
    except InputError as error:
        raise argparse.ArgumentTypeError(printable(str(error))) from error


def print_error(error: InputError) -> int:
    """Print an error of the user's input and return the exit status for it."""
    print_message(f"error: {printable(str(error))}")
    return 2


def print_reasons(reasons: Iterable[str]) -> None:
    """Print the reasons why videos cannot be read; of a long list the first ones."""
    for reason in itertools.islice(reasons, _MOST_REASONS):
        print_error(InputError(reason))
