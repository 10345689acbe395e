"""Threads of Python that fill batches while TensorFlow is not imported yet."""

import atexit
import threading
import weakref
from collections import Counter
from collections.abc import Iterator

from vswin_jax.data.pipeline.batch_builder import BatchBuilder


class ThreadFiller(Iterator[None]):
    """Threads that fill the items of `builder` in order, at most `prefetch` batches ahead.

    `next` waits until the next batch is full. The threads end after `length` items, or by `close`.
    """

    def __init__(self, builder: BatchBuilder, length: int, *, threads: int, prefetch: int) -> None:
        self._builder, self._length, self._prefetch = builder, length, prefetch
        self._begun = self._number = 0  # items that were begun, and batches that were returned
        self._done: Counter[int] = Counter()  # items that are done, by the number of their batch
        self._changed = threading.Condition()
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()
        _OPEN.add(self)

    def __next__(self) -> None:
        with self._changed:
            first = self._number * self._builder.items_per_batch
            size = min(self._builder.items_per_batch, self._length - first)
            if size <= 0:
                raise StopIteration
            self._changed.wait_for(lambda: self._done[self._number] >= size)
            del self._done[self._number]
            self._number += 1
            self._changed.notify_all()

    def stop_early(self) -> int:
        """Begin no further batch; return the number of batches that have been begun."""
        with self._changed:
            batches = -(-self._begun // self._builder.items_per_batch)
            self._length = min(self._length, batches * self._builder.items_per_batch)
            self._changed.notify_all()
        return batches

    def close(self) -> None:
        """Begin no further item, so that the threads end."""
        with self._changed:
            self._length = 0
            self._changed.notify_all()

    def join(self) -> None:
        """Wait for the threads, after `close`."""
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (item := self._begin()) is not None:
            self._builder.fill(item)
            with self._changed:
                self._done[item // self._builder.items_per_batch] += 1
                self._changed.notify_all()

    def _begin(self) -> int | None:
        """Return the next item when its batch is near enough; None if there is none."""
        with self._changed:
            self._changed.wait_for(lambda: self._begun >= self._length or self._is_near())
            if self._begun >= self._length:
                return None
            self._begun += 1
            return self._begun - 1

    def _is_near(self) -> bool:
        # While the first step is traced, which takes the interpreter's lock, one batch is enough.
        ahead = min(self._prefetch, max(0, self._number - 1))
        return self._begun // self._builder.items_per_batch <= self._number + ahead


_OPEN: weakref.WeakSet[ThreadFiller] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    # A thread that decodes while the interpreter shuts down could crash it.
    for filler in list(_OPEN):
        filler.close()
        filler.join()
