"""The same function for many things, in several processes, with flat memory."""

import itertools
import multiprocessing
import multiprocessing.process
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from vswin_jax.errors import InputError

# Things a process is ahead with: enough to keep it busy, few enough to keep the memory flat.
_AHEAD = 16

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_processes(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    processes: int,
    name_of: Callable[[Item], str] = str,
    ahead: int = _AHEAD,
) -> Iterator[tuple[Item, Result]]:
    """(item, function(item)) of every item, in the order in which they are done.

    Function, items and results must be picklable. Each process has up to `ahead` items waiting,
    which are in memory. The processes end when this one does, however it ends.

    Raises:
        InputError: a process died; this names what it may have been at, by `name_of`.
    """
    items = iter(items)
    running: dict[Future[Result], Item] = {}
    # A forked child would inherit locks that other threads hold.
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(processes, context, initializer=_end_with_parent) as pool:
            while True:
                for item in itertools.islice(items, processes * ahead - len(running)):
                    running[pool.submit(function, item)] = item
                if not running:
                    return
                for future in wait(running, return_when="FIRST_COMPLETED").done:
                    yield running[future], future.result()
                    del running[future]
    except BrokenProcessPool as error:
        # They are taken up in the order in which they were handed out.
        unfinished = (name_of(item) for future, item in running.items() if _has_failed(future))
        oldest = itertools.islice(unfinished, processes)
        raise InputError(
            f"A process died while it was at one of {', '.join(map(repr, oldest))}: take the one "
            f"that kills it off the list, or need less memory with fewer --processes."
        ) from error


def _has_failed(future: Future) -> bool:
    return not future.done() or future.exception() is not None


def _end_with_parent() -> None:
    """Ends this process when its parent ends: it would wait for work for ever after a kill."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_wait_and_end, args=(parent,), daemon=True).start()


def _wait_and_end(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os._exit(1)
