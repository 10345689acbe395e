"""Whether a signal has come, and where a run stops for it: a thread decides, with all peers.

`signals` has what the rest of the program needs of it.
"""

import contextlib
import os
import select
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

from vswin_jax.runtime import distributed

# The signals that ask a run to end.
NUMBERS = (signal.SIGINT, signal.SIGTERM)

# How often the thread looks for what other processes say.
_LOOK_SECONDS = 0.5
# How long the main thread has to leave by itself; it cannot while it compiles.
_LEAVE_SECONDS = 4.0
# How long processes wait for each other's threads to say how far they are.
_AGREE_SECONDS = 15.0
# How long a run that has failed may take to save what it was saving, which ends only if no other
# process is gone.
_FAIL_SECONDS = 60.0
_BEFORE_ALL, _AFTER_ALL, _NEVER = -1, 2**40, 2**41


class Stopped(BaseException):
    """Raised in the main thread where a signal ends the work at hand.

    number: the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


class Watch:
    """Whether a signal has come, and where the run is to stop for it.

    number: the signal, or None.

    Outside of `hold` nothing would be lost: a signal raises `Stopped` wherever the main thread is,
    and where that does not come back to Python the process ends without it. Inside, the run stops
    at a safe point, of which all processes pass the same ones, the first before any step. While a
    process is not past the second one no step is complete, and they end at once too.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._passed, self._last = _BEFORE_ALL, _NEVER
        self._lock = threading.Lock()
        self._interrupts = 0
        self._is_leaving = self._has_raised = self._has_failed = False
        self._closed = threading.Event()

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """From here until `release` something would be lost: signals wait for safe points."""
        with self._lock:
            self._passed, self._last = 0, _NEVER
        try:
            yield
        except Exception as error:
            if distributed.current() is not None:
                bound = threading.Timer(_FAIL_SECONDS, self._give_up, (error,))
                bound.daemon = True
                bound.start()
            raise

    def release(self) -> None:
        """All is saved: a signal ends the run at once again."""
        with self._lock:
            self._passed = _AFTER_ALL

    @property
    def is_held(self) -> bool:
        """Whether signals wait for safe points."""
        return _BEFORE_ALL < self._passed < _AFTER_ALL

    def reached(self) -> bool:
        """A safe point: whether the run is to stop here. All processes pass the same ones."""
        with self._lock:
            self._passed += 1
            return self._passed >= self._last

    def is_next(self) -> bool:
        """Whether the run is to stop at the next safe point; this is none."""
        with self._lock:
            return self._passed + 1 >= self._last

    def fail(self, status: int, reason: str) -> None:
        """Tells the other processes that this one ends, and why; they end with that status too."""
        peers = distributed.current()
        if peers is not None and not self._has_failed:
            self._has_failed = True
            with contextlib.suppress(RuntimeError):
                peers.tell("failed", f"{status} process {peers.index} ended the run: {reason}")

    def note(self, number: int, _: FrameType | None) -> None:
        """The handler of the signals: the main thread, where alone something can be raised."""
        if self._is_leaving and not self._has_raised and not self._closed.is_set():
            self._has_raised = True
            raise Stopped(self.number or number)

    def listen(self, pipe: int) -> None:
        """The thread: hears of signals by the bytes in `pipe`, and of the others' in the service.

        A run that goes on is at most `_LOOK_SECONDS` late to hear of a signal of another process.
        """
        while not self._closed.is_set():
            if select.select([pipe], [], [], _LOOK_SECONDS)[0]:
                for number in os.read(pipe, 64):
                    self._hear(number)
            # The service may be gone, which JAX notices too, and ends this process.
            with contextlib.suppress(RuntimeError):
                self._look()

    def close(self) -> None:
        """Ends the thread."""
        self._closed.set()

    def _hear(self, number: int) -> None:
        if number not in NUMBERS:
            return
        self._interrupts += number == signal.SIGINT
        if self.number is None:
            self._stop(number)
        elif self._interrupts > 1 and not self._is_leaving:
            self._leave(number)

    def _look(self) -> None:
        peers = distributed.current()
        if peers is None or self._has_failed or self._is_leaving:
            return
        failed, number = peers.heard("failed"), peers.heard("signal")
        if failed is not None:
            status, _, reason = failed.partition(" ")
            _end(int(status), f"error: {reason}")
        if number is not None and self.number is None:
            self._stop(int(number))

    def _stop(self, number: int) -> None:
        # The main thread passes no safe point meanwhile.
        with self._lock:
            self.number = number
            passed = _agree(number, self._passed)
            leaves = passed is None or min(passed) <= 1 or self._passed == _AFTER_ALL
            if passed is not None and max(passed) < _AFTER_ALL:
                self._last = max(passed) + 1
        if leaves:
            self._leave(number)

    def _leave(self, number: int) -> None:
        self._is_leaving = True
        signal.pthread_kill(threading.main_thread().ident or 0, number)
        # In slices, so that a process that is stopped meanwhile has the time when it goes on.
        if not any(self._closed.wait(0.1) for _ in range(round(_LEAVE_SECONDS / 0.1))):
            _end(128 + number, f"{signal.Signals(number).name} stopped this run.")

    def _give_up(self, error: Exception) -> None:
        if not self._closed.is_set():
            self.fail(1, str(error))
            _end(1, f"error: {error}")


def _agree(number: int, passed: int) -> list[int] | None:
    """The safe points that each process has passed; None if they cannot be asked."""
    peers = distributed.current()
    if peers is None:
        return [passed]
    try:
        peers.tell("signal", str(int(number)))
        return [int(text) for text in peers.exchange("passed", str(passed), _AGREE_SECONDS)]
    except RuntimeError:
        return None


def _end(status: int, words: str) -> NoReturn:
    """Ends the process from a thread, whatever the main thread is at."""
    print(words, file=sys.stderr, flush=True)
    distributed.part()
    os._exit(status)
