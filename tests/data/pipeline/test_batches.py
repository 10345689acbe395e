"""Memory of finished iterators is freed, although TensorFlow keeps every function forever."""

import gc
import time
import weakref

import numpy as np
import pytest

from vswin_jax.data.pipeline.batches import Batch, BatchIterator, make_batches


class Source:
    """An object that the function that fills rows refers to."""


def batches_of(source: Source, length: int) -> BatchIterator:
    def load(index: int, rows: Batch) -> None:
        assert source
        rows["x"][0] = index

    return make_batches(load, length, 4, {"x": (np.int32, (3,))}, threads=2, prefetch=2)


@pytest.mark.parametrize("taken", [0, 1, 3], ids=["unread", "read in part", "read to the end"])
def test_source_and_memory_are_freed(taken: int) -> None:
    source = Source()
    batches = batches_of(source, 12)
    read = [batch["x"][:, 0].tolist() for _, batch in zip(range(taken), batches, strict=False)]
    assert read == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]][:taken]
    references = (weakref.ref(source), weakref.ref(batches._builder))
    del source, batches
    # Threads that are filling rows finish them.
    deadline = time.monotonic() + 20
    while any(reference() for reference in references) and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.01)
    assert [reference() for reference in references] == [None, None]


def test_a_batch_outlives_its_iterator() -> None:
    batches = batches_of(Source(), 8)
    first = next(batches)["x"]
    del batches
    gc.collect()
    assert first.tolist() == [[index] * 3 for index in range(4)]
