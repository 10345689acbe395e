"""The thread that receives stop signals and agrees with the other processes where to stop.

`preemption` installs it and has the functions that the rest of the program calls.

Two threads take part. The main thread works, and passes numbered sync points between units of
work. The watcher thread (`SignalWatcher.listen`) reads signals from a pipe, so that it reacts at
once even while the main thread is inside a C++ call, such as a compilation of several minutes. It
alone decides how the run stops, and it stops the main thread in one of two ways:

- it sets a deadline, the number of the sync point at which the main thread is to stop, or
- it interrupts the main thread by `pthread_kill`, whose handler raises `StopRequested`; if the
  main thread does not return to Python in time, it ends the process.
"""

import contextlib
import os
import select
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

from vswin_jax.runtime import distributed
from vswin_jax.runtime.standard_streams import print_message

# Signals that request a stop: Ctrl-C, and a scheduler's notice before it kills the process.
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)

# Interval at which the watcher polls for signals and failures of other processes.
_POLL_SECONDS = 0.5
# Time for an interrupted main thread to unwind, which it cannot do while it compiles.
_UNWIND_SECONDS = 4.0
# Time for the watchers of all processes to exchange the numbers of their sync points.
_AGREEMENT_TIMEOUT_SECONDS = 15.0
# Time for a failed run to unwind, which includes waiting for a save in progress. That wait never
# ends if another process is gone.
_FAILURE_UNWIND_SECONDS = 60.0

# Values of `_num_passed` outside of `defer_signals`: below and above every number of a sync point.
_BEFORE_FIRST, _AFTER_LAST = -1, 2**40
# Value of `_deadline` that no number of a sync point reaches, not even `_AFTER_LAST`.
_NO_DEADLINE = 2**41


class StopRequested(BaseException):
    """Raised in the main thread where a signal ends the work in progress.

    It derives from BaseException, as KeyboardInterrupt does, so that `except Exception` does not
    swallow it.

    Attributes:
      number: the signal number.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


class SignalWatcher:
    """Receives stop signals and determines where the run stops for them.

    Outside of `defer_signals` an interruption loses nothing: a signal raises `StopRequested`
    wherever the main thread is, and if the main thread does not return to Python the process ends
    without it. Inside, the run stops at a sync point. All processes pass the same sync points in
    the same order, the first one before any training step, so a number names the same moment in
    each of them. As long as some process has not passed the second sync point, no step is complete
    and nothing is lost either; then the run ends at once, too.

    Attributes:
      number: number of the signal that was received, here or by another process; None without one.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        # Guards the two counters below. The watcher holds it while the processes agree on the
        # deadline, so that the main thread cannot pass a sync point meanwhile.
        self._lock = threading.Lock()
        self._num_passed = _BEFORE_FIRST
        self._deadline = _NO_DEADLINE
        self._num_interrupts = 0
        self._is_interrupting = self._has_raised = self._has_failed = False
        self._closed = threading.Event()

    @contextlib.contextmanager
    def defer_signals(self) -> Iterator[None]:
        """Make signals wait for sync points from here until `stop_deferring`.

        A failure of the block ends the process after `_FAILURE_UNWIND_SECONDS` even if it cannot
        unwind, provided that there are other processes, which would wait for this one.
        """
        with self._lock:
            self._num_passed, self._deadline = 0, _NO_DEADLINE
        try:
            yield
        except Exception as error:
            if distributed.get_peers() is not None:
                timer = threading.Timer(_FAILURE_UNWIND_SECONDS, self._exit_after_failure, (error,))
                timer.daemon = True
                timer.start()
            raise

    def stop_deferring(self) -> None:
        """Let signals interrupt at once again: everything is saved."""
        with self._lock:
            self._num_passed = _AFTER_LAST

    @property
    def is_deferring(self) -> bool:
        """True while signals wait for sync points."""
        return _BEFORE_FIRST < self._num_passed < _AFTER_LAST

    def reached_sync_point(self) -> bool:
        """Pass a sync point and return True if the run is to stop at it."""
        with self._lock:
            self._num_passed += 1
            return self._num_passed >= self._deadline

    def stops_at_next(self) -> bool:
        """Return True if the run is to stop at the next sync point, without passing it."""
        with self._lock:
            return self._num_passed + 1 >= self._deadline

    def publish_failure(self, status: int, reason: str) -> None:
        """Announce to the other processes that this one fails; they exit with the same status."""
        peers = distributed.get_peers()
        if peers is not None and not self._has_failed:
            self._has_failed = True
            with contextlib.suppress(RuntimeError):
                peers.put("failed", f"{status} process {peers.index} ended the run: {reason}")

    def handle_signal(self, number: int, _: FrameType | None) -> None:
        """Handle a signal in the main thread, the only one in which Python runs handlers.

        The first delivery of a signal does nothing here, because the watcher thread decides. The
        handler raises when the watcher has sent the signal again (`_interrupt_main_thread`), and
        only once: a second exception would cut the unwinding of the first one short.
        """
        if self._is_interrupting and not self._has_raised and not self._closed.is_set():
            self._has_raised = True
            raise StopRequested(self.number or number)

    def listen(self, pipe: int) -> None:
        """Run the watcher thread until `close`.

        Args:
          pipe: read end of the pipe into which `signal.set_wakeup_fd` writes signal numbers, one
            byte each.
        """
        while not self._closed.is_set():
            if select.select([pipe], [], [], _POLL_SECONDS)[0]:
                for number in os.read(pipe, 64):
                    self._on_signal(number)
            # The coordination service may be gone. JAX notices it as well, and ends this process.
            with contextlib.suppress(RuntimeError):
                self._poll_peers()

    def close(self) -> None:
        """End the watcher thread."""
        self._closed.set()

    def _on_signal(self, number: int) -> None:
        if number not in STOP_SIGNALS:
            return
        self._num_interrupts += number == signal.SIGINT
        if self.number is None:
            self._request_stop(number)
        # A second Ctrl-C: the user does not want to wait for the sync point.
        elif self._num_interrupts > 1 and not self._is_interrupting:
            self._interrupt_main_thread(number)

    def _poll_peers(self) -> None:
        """Act on a failure or a signal that another process has published."""
        peers = distributed.get_peers()
        if peers is None or self._has_failed or self._is_interrupting:
            return
        failed, number = peers.get("failed"), peers.get("signal")
        if failed is not None:
            status, _, reason = failed.partition(" ")
            _exit_process(int(status), f"error: {reason}")
        if number is not None and self.number is None:
            self._request_stop(int(number))

    def _request_stop(self, number: int) -> None:
        """Agree with the other processes on the deadline, or interrupt where nothing is lost."""
        # With the lock held the main thread passes no sync point between the exchange of the
        # numbers and the new deadline. The watchers of all processes do the same at the same time,
        # so the largest number stays the largest, and the sync point after it is one that no
        # process has passed and that all of them will reach.
        with self._lock:
            self.number = number
            passed = _gather_num_passed(number, self._num_passed)
            is_interruptible = passed is None or min(passed) <= 1 or self._num_passed == _AFTER_LAST
            if passed is not None and max(passed) < _AFTER_LAST:
                self._deadline = max(passed) + 1
        # Outside of the lock: the main thread may need it while it unwinds.
        if is_interruptible:
            self._interrupt_main_thread(number)

    def _interrupt_main_thread(self, number: int) -> None:
        """Raise `StopRequested` in the main thread; end the process if it does not unwind."""
        self._is_interrupting = True
        # A signal to the process may be delivered to any thread. One to the main thread also ends
        # a blocking system call there, so that Python runs the handler (`handle_signal`) at once.
        signal.pthread_kill(threading.main_thread().ident or 0, number)
        # In slices: if the whole process is suspended meanwhile, the main thread still has nearly
        # all of its time left when the process continues.
        if not any(self._closed.wait(0.1) for _ in range(round(_UNWIND_SECONDS / 0.1))):
            _exit_process(128 + number, f"{signal.Signals(number).name} stopped this run.")

    def _exit_after_failure(self, error: Exception) -> None:
        if not self._closed.is_set():
            self.publish_failure(1, str(error))
            _exit_process(1, f"error: {error}")


def _gather_num_passed(number: int, num_passed: int) -> list[int] | None:
    """Publish the signal and return each process's count of sync points; None on a failure.

    It runs in the watcher thread, so that no training step waits for it.
    """
    peers = distributed.get_peers()
    if peers is None:
        return [num_passed]
    try:
        peers.put("signal", str(int(number)))
        counts = peers.all_gather("passed", str(num_passed), _AGREEMENT_TIMEOUT_SECONDS)
        return [int(count) for count in counts]
    except RuntimeError:
        return None


def _exit_process(status: int, message: str) -> NoReturn:
    """End the process from a thread, whatever the main thread is doing."""
    print_message(message)
    distributed.shutdown()
    # sys.exit would end this thread only; os._exit does not wait for the main thread.
    os._exit(status)
