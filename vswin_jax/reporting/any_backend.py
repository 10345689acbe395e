"""Import of Matplotlib under any MPLBACKEND, and without a home directory.

A notebook's kernel sets MPLBACKEND, and the commands that are started from its cells inherit it.
In another environment Matplotlib does not know that backend, and cannot be imported.
"""

import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def any_backend() -> Iterator[None]:
    """Import Matplotlib in the block under any value of MPLBACKEND; the variable keeps its value.

    Figures that are made without pyplot need no backend. A backend that is known stays selected,
    for pyplot in the same process.
    """
    if "matplotlib" in sys.modules:
        yield
        return
    _find_temporary_directory()
    name = os.environ.pop("MPLBACKEND", None)
    log = logging.getLogger("matplotlib")
    level = log.level
    # A user without a home directory would get advice on the cache of fonts in every process.
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
        if name is not None:
            os.environ["MPLBACKEND"] = name
    if name:
        # As Matplotlib does it at the end of its own import, where it would raise.
        with contextlib.suppress(ValueError):
            sys.modules["matplotlib"].rcParams["backend"] = name


def _find_temporary_directory() -> None:
    """Let temporary files be in memory if no disk can be written to, as in some containers.

    Matplotlib needs a directory to write to, and uses a temporary one if there is no home.
    """
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        if os.access("/dev/shm", os.W_OK):
            tempfile.tempdir = "/dev/shm"
