"""Output of a command: its log on stderr, its results on stdout."""

import contextlib
import logging
import sys
from collections.abc import Iterator

import jax

from vswin_jax.runtime.standard_streams import print_result

_log = logging.getLogger("vswin_jax")


def print_once(text: str) -> None:
    """Print `text` to stdout at once, in process 0 only."""
    if jax.process_index() == 0:
        print_result(text)


@contextlib.contextmanager
def log_to_stderr() -> Iterator[None]:
    """Show the project's log on stderr, with the time; libraries still log only warnings."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%H:%M:%S"))
    _log.addHandler(handler)
    _log.setLevel(logging.INFO)
    _log.propagate = False
    try:
        yield
    finally:
        _log.removeHandler(handler)
        _log.propagate = True
