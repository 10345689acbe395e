"""The argument parser of a script, whose --help is the script's own docstring."""

import argparse
from typing import Any


def script_parser(docstring: str | None, **settings: Any) -> argparse.ArgumentParser:
    """A parser described by a docstring `What it does: how to get help.` and what follows it.

    `settings` are those of `argparse.ArgumentParser`.
    """
    head, _, rest = (docstring or "").partition("\n")
    return argparse.ArgumentParser(
        description=head.partition(":")[0] + ".",
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        **settings,
    )
