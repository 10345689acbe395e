"""Maps a function over many items in several worker processes, with bounded memory."""

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
    even if it is killed.

    Raises:
      InputError: a worker died; the message names the items it may have been processing, by
        `name_of`.
    """
    items = iter(items)
    running: dict[Future[Result], Item] = {}
    # A forked child would inherit locks that other threads hold.
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(processes, context, initializer=_exit_with_parent) as pool:
            while True:
                for item in itertools.islice(items, processes * ahead - len(running)):
                    running[pool.submit(function, item)] = item
                if not running:
                    return
                for future in wait(running, return_when="FIRST_COMPLETED").done:
                    yield running[future], future.result()
                    del running[future]
    except BrokenProcessPool as error:
        unfinished = [item for future, item in running.items() if _is_unfinished(future)]
        # Workers take items in the order of submission, so the oldest ones were being processed.
        raise _worker_death(map(name_of, unfinished[:processes])) from error


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
