"""Ending a run in good order when a scheduler (SIGTERM) or a person (Ctrl-C) asks for it.

A thread hears of a signal at once, whatever the main thread is at: Python runs a handler only
when the main thread is back in Python, and it compiles for minutes without coming back. Of several
processes it is enough that one gets the signal: it tells the others, and they agree where to stop,
again in such threads, so that no step waits for any of it.

On a TPU a maintenance notice comes as a SIGTERM too: Kubernetes sends it to the pods of a node
that is to go, and systemd to all processes of a machine that shuts down. JAX's own service for it
(`multihost_utils.reached_preemption_sync_point`) hears of SIGTERM alone, once a second, and lets
the run go on for a step; it is off, so that the signal comes here.
"""

import concurrent.futures
import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

from vswin_jax.runtime.signal_watcher import NUMBERS, Stopped, Watch

__all__ = ["Stopped", "Watch", "abandonable", "safe_point", "watching"]

_watch: Watch | None = None


@contextlib.contextmanager
def watching() -> Iterator[Watch]:
    """Watches for signals until the end of the block; within another one it is the same watch.

    What an inner block has held is released at its end. A second Ctrl-C ends a run that waits for
    a safe point at once. Signals come to the main thread alone: in another one nothing is watched.
    """
    global _watch
    if _watch is not None:
        try:
            yield _watch
        finally:
            _watch.release()
    elif threading.current_thread() is not threading.main_thread():
        yield Watch()
    else:
        _watch = Watch()
        try:
            with _installed(_watch):
                yield _watch
        finally:
            _watch = None


@contextlib.contextmanager
def _installed(watch: Watch) -> Iterator[None]:
    heard, told = os.pipe()
    os.set_blocking(told, False)
    thread = threading.Thread(target=watch.listen, args=(heard,), daemon=True, name="signals")
    before = {number: signal.signal(number, watch.note) for number in NUMBERS}
    woken_before = signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    thread.start()
    try:
        yield
    finally:
        watch.close()
        os.write(told, bytes(1))
        thread.join()
        signal.set_wakeup_fd(woken_before)
        for number, handler in before.items():
            # What a library in C has installed Python cannot give back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        os.close(heard)
        os.close(told)


def safe_point() -> None:
    """A safe point in the middle of work that can be done again, such as an evaluation.

    Raises:
        Stopped: the run is to stop here.
    """
    if _watch is not None and _watch.is_held and _watch.reached():
        raise Stopped(_watch.number or signal.SIGTERM)


def abandonable(work: Callable[[], object]) -> None:
    """Does `work`, which takes long and holds the thread it runs in; a signal need not wait for it.

    Raises:
        Stopped: the run is to stop here; the work goes on in a thread until the process ends.
    """
    watch = _watch
    if watch is None or not watch.is_held:
        work()
        return
    future: concurrent.futures.Future[None] = concurrent.futures.Future()
    threading.Thread(target=_do, args=(work, future), daemon=True).start()
    while not concurrent.futures.wait([future], timeout=0.1).done:
        if watch.is_next():
            raise Stopped(watch.number or signal.SIGTERM)
    future.result()


def _do(work: Callable[[], object], future: "concurrent.futures.Future[None]") -> None:
    try:
        work()
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(None)
