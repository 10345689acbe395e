"""Command lines of scripts: a parser whose --help is the script's docstring, types and errors."""

import argparse
import sys
from typing import Any

from vswin_jax.errors import InputError


def script_parser(docstring: str | None, **options: Any) -> argparse.ArgumentParser:
    """Build a parser whose help is `docstring`: its first line up to a colon, then its other lines.

    `options` are those of `argparse.ArgumentParser`.
    """
    first_line, _, rest = (docstring or "").partition("\n")
    return argparse.ArgumentParser(
        description=first_line.partition(":")[0] + ".",
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        **options,
    )


def positive_int(text: str) -> int:
    """Parse a whole number from 1 up, as the `type` of an argument."""
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"expected 1 or more but {text!r} came")
    return int(text)


def print_error(error: InputError) -> int:
    """Print an error of the user's input and return the exit status for it."""
    print(f"error: {error}", file=sys.stderr)
    return 2
