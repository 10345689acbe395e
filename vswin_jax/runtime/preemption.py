"""Preemption: a clean stop when a scheduler (SIGTERM) or a user (Ctrl-C) requests it.

Python runs a signal handler only when the main thread executes Python code, and the main thread
compiles for minutes without doing so. A thread therefore receives the signals (`signal_watcher`).
If one of several processes receives a signal, it informs the others, and they agree on the step
after which all stop, again in those threads: no training step waits for the agreement.

On a TPU a maintenance event arrives as a SIGTERM too: Kubernetes sends it to the pods of a node
that is drained, and systemd to all processes of a machine that shuts down. JAX's own service for
it (`multihost_utils.reached_preemption_sync_point`) handles SIGTERM alone, polls once a second, and
lets the run continue for a step. It is switched off (`distributed.join`), so that the signal
arrives here.
"""

import concurrent.futures
import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

from vswin_jax.runtime.signal_watcher import STOP_SIGNALS, SignalWatcher, StopRequested

__all__ = ["SignalWatcher", "StopRequested", "handle_signals", "run_abandonable", "sync_point"]

_watcher: SignalWatcher | None = None


@contextlib.contextmanager
def handle_signals() -> Iterator[SignalWatcher]:
    """Watch for stop signals in the block; a nested block uses the watcher of the outer one.

    A nested block ends the deferral of signals. Only the main thread can install handlers: a block
    in another thread gets a watcher that never receives a signal.
    """
    global _watcher
    if _watcher is not None:
        try:
            yield _watcher
        finally:
            _watcher.stop_deferring()
    elif threading.current_thread() is not threading.main_thread():
        yield SignalWatcher()
    else:
        _watcher = SignalWatcher()
        try:
            with _installed(_watcher):
                yield _watcher
        finally:
            _watcher = None


@contextlib.contextmanager
def _installed(watcher: SignalWatcher) -> Iterator[None]:
    """Run the watcher's thread and install its handlers for the duration of the block."""
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    thread = threading.Thread(target=watcher.listen, args=(read_end,), daemon=True, name="signals")
    handlers = {number: signal.signal(number, watcher.handle_signal) for number in STOP_SIGNALS}
    # CPython's C-level handler writes the signal number to this descriptor at once; the Python
    # handler may run minutes later.
    previous_fd = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    thread.start()
    try:
        yield
    finally:
        # The thread ends first: from here on nothing may be interrupted. The byte 0 wakes it.
        watcher.close()
        os.write(write_end, bytes(1))
        thread.join()
        signal.set_wakeup_fd(previous_fd)
        for number, handler in handlers.items():
            # None means that a C library had installed the handler, which Python cannot restore.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        os.close(read_end)
        os.close(write_end)


def sync_point() -> None:
    """Pass a sync point within work that can be repeated, such as an evaluation.

    Unless signals are deferred, this does nothing.

    Raises:
      StopRequested: the run is to stop here.
    """
    if _watcher is not None and _watcher.is_deferring and _watcher.reached_sync_point():
        raise StopRequested(_watcher.number or signal.SIGTERM)


def run_abandonable(work: Callable[[], object]) -> None:
    """Run long `work` in another thread, so that a stop need not wait for it.

    It is made for compilation, which cannot be interrupted. No sync point is passed here; the
    caller passes one afterwards.

    Raises:
      StopRequested: the run is to stop; the work continues until the process ends.
    """
    watcher = _watcher
    if watcher is None or not watcher.is_deferring:
        work()
        return
    # Not an executor: its threads are joined at exit, which would wait for the work after all.
    future: concurrent.futures.Future[None] = concurrent.futures.Future()
    threading.Thread(target=_complete, args=(work, future), daemon=True).start()
    while not concurrent.futures.wait([future], timeout=0.1).done:
        if watcher.stops_at_next():
            raise StopRequested(watcher.number or signal.SIGTERM)
    future.result()


def _complete(work: Callable[[], object], future: "concurrent.futures.Future[None]") -> None:
    try:
        work()
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(None)
