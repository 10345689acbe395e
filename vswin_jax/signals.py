"""Ending a run in good order when a scheduler (SIGTERM) or a person (Ctrl-C) asks for it."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

import jax


@contextlib.contextmanager
def stop_signals() -> Iterator[list[int]]:
    """The list of signals received that ask the run to end; a second one ends it at once.

    Of many processes each would stop at another step, so there the signals keep their meaning.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread() or jax.process_count() > 1:
        yield received
        return

    def note(number: int, _: FrameType | None) -> None:
        received.append(number)
        signal.signal(number, before[number])

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
