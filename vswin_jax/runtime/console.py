"""Output of a command: its log on stderr, its results on stdout."""

import contextlib
import logging
import sys
from collections.abc import Iterator
from typing import Any

import jax

from vswin_jax.runtime.standard_streams import print_result

_log = logging.getLogger("vswin_jax")


def print_once(text: str) -> None:
    """Print `text` to stdout at once, in process 0 only."""
    if jax.process_index() == 0:
        print_result(text)


class _StderrHandler(logging.StreamHandler):
    """Writes to the `sys.stderr` of the moment, which `import_quietly` replaces for a while."""

    @property
    def stream(self) -> Any:
        return sys.stderr

    @stream.setter
    def stream(self, stream: Any) -> None:
        del stream


def log_once(line: str) -> None:
    """Write `line` to the project's log, in process 0 only."""
    if jax.process_index() == 0:
        _log.info("%s", line)


@contextlib.contextmanager
def log_to_stderr() -> Iterator[None]:
    """Show the project's log on stderr, with the time; libraries still log only warnings."""
    handler = _StderrHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%H:%M:%S"))
    _log.addHandler(handler)
    _log.setLevel(logging.INFO)
    _log.propagate = False
    try:
        yield
    finally:
        _log.removeHandler(handler)
        _log.propagate = True
