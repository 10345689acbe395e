"""Orbax and TensorStore without their progress reports, and without what they raise as well."""

import contextlib
import logging
import sys
from collections.abc import Iterator

from vswin_jax.runtime.disk_full import reason_if_full


def quiet_orbax() -> None:
    """Keeps Orbax's reports, hundreds of lines a run, out of the log; what is wrong stays.

    But what it raises is told by whoever catches it: Orbax would tell of a failed save six times,
    and asyncio once more for each array.
    """
    for name, keep in (("absl", _not_chatter), ("asyncio", _not_of_a_full_disk)):
        log = logging.getLogger(name)
        if keep not in log.filters:
            log.addFilter(keep)


def _not_chatter(record: logging.LogRecord) -> bool:
    is_news = record.levelno >= logging.ERROR and not record.exc_info
    return is_news or "orbax" not in record.pathname


def _not_of_a_full_disk(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return error is None or reason_if_full(error) is None


@contextlib.contextmanager
def quiet_failures() -> Iterator[None]:
    """Hides what TensorStore's threads meet when the first of many writes has failed.

    The others then report to a loop that is closed, and Python prints a traceback for each.
    """
    print_it = sys.unraisablehook

    def unless_closed(unraisable: "sys.UnraisableHookArgs") -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            print_it(unraisable)

    sys.unraisablehook = unless_closed
    try:
        yield
    finally:
        if sys.unraisablehook is unless_closed:
            sys.unraisablehook = print_it
