"""Maps a function over many items in several worker processes or threads, with bounded memory."""

import itertools
import logging
import multiprocessing
import multiprocessing.context
import multiprocessing.process
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from vswin_jax.errors import InputError

log = logging.getLogger("vswin_jax")

# Queued items per worker: enough to keep it busy, few enough to bound the memory.
_QUEUED_PER_WORKER = 16

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_processes(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    processes: int,
    name_of: Callable[[Item], str] = str,
    ahead: int = _QUEUED_PER_WORKER,
) -> Iterator[tuple[Item, Result]]:
    """Yield (item, function(item)) for every item, in order of completion.

    `Executor.map` would submit all items at once; this keeps at most `processes * ahead` of them
    in memory. Function, items and results must be picklable. The workers end with this process,
    even if it is killed. On a system without semaphores, threads of this process do the work.

    Raises:
      InputError: a worker died; the message names the items it may have been processing, by
        `name_of`.
    """
    running: dict[Future[Result], Item] = {}
    # A forked child would inherit locks that other threads hold.
    context = multiprocessing.get_context("spawn")
    if not _has_semaphores(context):
        yield from map_in_threads(function, items, processes, ahead)
        return
    try:
        with ProcessPoolExecutor(processes, context, initializer=_exit_with_parent) as pool:
            yield from _completed(pool, function, items, processes * ahead, running)
    except BrokenProcessPool as error:
        unfinished = [item for future, item in running.items() if _is_unfinished(future)]
        # Workers take items in the order of submission, so the oldest ones were being processed.
        raise _worker_death(map(name_of, unfinished[:processes])) from error


def _has_semaphores(context: multiprocessing.context.BaseContext) -> bool:
    """Return False, with a line in the log, if processes cannot wait for each other.

    Linux keeps semaphores in /dev/shm, which some containers lack or mount read-only.
    """
    try:
        context.Lock()
    except (OSError, ImportError) as error:
        log.warning("threads instead of processes do the work, for want of semaphores (%s)", error)
        return False
    return True


def map_in_threads(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int, ahead: int = 2
) -> Iterator[tuple[Item, Result]]:
    """Yield (item, function(item)) for every item, in order of completion.

    At most `threads * ahead` items are queued or running. If the caller stops early, for Ctrl-C
    too, queued items are dropped, and nothing waits for those that are running.
    """
    pool = ThreadPoolExecutor(threads)
    try:
        yield from _completed(pool, function, items, threads * ahead, {})
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _completed(
    pool: Executor,
    function: Callable[[Item], Result],
    items: Iterable[Item],
    most: int,
    running: dict[Future[Result], Item],
) -> Iterator[tuple[Item, Result]]:
    """Submit at most `most` items at a time and yield them with their results; fills `running`."""
    items = iter(items)
    while True:
        for item in itertools.islice(items, most - len(running)):
            running[pool.submit(function, item)] = item
        if not running:
            return
        for future in wait(running, return_when="FIRST_COMPLETED").done:
            yield running[future], future.result()
            del running[future]


def _worker_death(names: Iterable[str]) -> InputError:
    return InputError(
        f"A worker process died while it processed one of {', '.join(map(repr, names))}: remove "
        f"the one that crashes it, or use less memory with fewer --processes."
    )


def _is_unfinished(future: Future) -> bool:
    # A broken pool sets an exception on every future that it had not finished.
    return not future.done() or future.exception() is not None


def _exit_with_parent() -> None:
    """Start a thread that ends this worker when its parent ends.

    The executor's workers block on their queue; after a SIGKILL of the parent they would block
    forever.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_wait_and_exit, args=(parent,), daemon=True).start()


def _wait_and_exit(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os._exit(1)
