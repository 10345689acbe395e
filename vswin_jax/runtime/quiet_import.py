"""Imports of libraries that take seconds and whose C++ code writes to stderr."""

import contextlib
import importlib
import logging
import os
import sys
import threading
from collections.abc import Iterator
from types import ModuleType

log = logging.getLogger(__name__)

# Two threads must not replace stderr at once: one would restore the replacement of the other.
_lock = threading.Lock()


def import_quietly(name: str) -> ModuleType:
    """Import a module and discard what C++ code writes to stderr meanwhile.

    Threads may call this while others log: Python's own `sys.stderr` is not discarded.
    """
    if name in sys.modules:
        return importlib.import_module(name)
    with _lock, _quiet_descriptor():
        return importlib.import_module(name)


class BackgroundImport:
    """An import in a thread that begins now; the process does not end before it is complete."""

    def __init__(self, name: str) -> None:
        self.module: ModuleType | None = None
        self._name = name
        threading.Thread(target=self._run, name=f"import {name}").start()

    def _run(self) -> None:
        try:
            self.module = import_quietly(self._name)
        except ImportError as error:
            log.info("%s cannot be imported: %s", self._name, error)


@contextlib.contextmanager
def _quiet_descriptor() -> Iterator[None]:
    """Discard what is written to file descriptor 2; TensorFlow has no switch for its messages."""
    with contextlib.suppress(OSError, AttributeError, ValueError):
        sys.stderr.flush()
    try:
        stderr = os.dup(2)
    except OSError:
        # The stream is closed, as in `2>&-`.
        yield
        return
    with open(os.devnull, "w") as devnull, _python_stderr(stderr):
        os.dup2(devnull.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
    os.close(stderr)


@contextlib.contextmanager
def _python_stderr(descriptor: int) -> Iterator[None]:
    """Let `sys.stderr`, if it writes to file descriptor 2, write to `descriptor` instead."""
    before = sys.stderr
    try:
        replaces = before.fileno() == 2
    except (OSError, AttributeError, ValueError):
        replaces = False
    if not replaces:
        yield
        return
    same = open(  # noqa: SIM115 (a thread may still write to it when the block ends)
        descriptor,
        "w",
        buffering=1,
        closefd=False,
        encoding=before.encoding,
        errors=before.errors,
    )
    sys.stderr = same
    try:
        yield
    finally:
        sys.stderr = before
        same.flush()
