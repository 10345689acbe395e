"""Filters the logs of Orbax and TensorStore: no progress reports, no error reported twice."""

import contextlib
import logging
import sys
from collections.abc import Iterator

from absl import logging as absl_logging

from vswin_jax.runtime.disk_full import disk_full_reason


def filter_orbax_logs() -> None:
    """Drop Orbax's progress reports, hundreds of lines a run, from the log; errors are kept.

    Records with an exception are dropped as well: the caller that catches the exception reports
    it. Orbax would log a failed save six times, and asyncio once more for each array.
    """
    # Absl's logger finds the file that logs only if absl has made it, before it is asked for.
    absl_log = absl_logging.get_absl_logger()
    asyncio_log = logging.getLogger("asyncio")
    for log, keep in ((absl_log, _is_not_orbax_progress), (asyncio_log, _is_not_disk_full)):
        if keep not in log.filters:
            log.addFilter(keep)


def _is_not_orbax_progress(record: logging.LogRecord) -> bool:
    is_error = record.levelno >= logging.ERROR and not record.exc_info
    return is_error or "orbax" not in record.pathname


def _is_not_disk_full(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return error is None or disk_full_reason(error) is None


@contextlib.contextmanager
def ignore_closed_loops() -> Iterator[None]:
    """Hide the tracebacks that follow a failed save.

    When the first of many writes has failed, the other threads of TensorStore report their results
    to an event loop that is closed, and Python prints a traceback for each of them.
    """
    previous_hook = sys.unraisablehook

    def hook(unraisable: "sys.UnraisableHookArgs") -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            previous_hook(unraisable)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        # Another hook that was installed meanwhile stays.
        if sys.unraisablehook is hook:
            sys.unraisablehook = previous_hook
