"""Batches give everything back: TensorFlow remembers every function that it was ever given."""

import gc
import time
import weakref

import numpy as np
import pytest

from vswin_jax.data.pipeline.batches import Batch, Batches, make_batches


class Source:
    """What a function that fills rows refers to."""


def batches_of(source: Source, length: int) -> Batches:
    def load(place: int, rows: Batch) -> None:
        assert source
        rows["x"][0] = place

    return make_batches(load, length, 4, {"x": (np.int32, (3,))}, threads=2, prefetch=2)


@pytest.mark.parametrize("taken", [0, 1, 3], ids=["unread", "left half way", "read to the end"])
def test_source_and_memory_are_given_back(taken: int) -> None:
    source = Source()
    batches = batches_of(source, 12)
    read = [batch["x"][:, 0].tolist() for _, batch in zip(range(taken), batches, strict=False)]
    assert read == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]][:taken]
    kept = (weakref.ref(source), weakref.ref(batches._filling))
    del source, batches
    # Threads that are filling rows finish them.
    deadline = time.monotonic() + 20
    while any(reference() for reference in kept) and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.01)
    assert [reference() for reference in kept] == [None, None]


def test_a_batch_outlives_its_iterator() -> None:
    batches = batches_of(Source(), 8)
    first = next(batches)["x"]
    del batches
    gc.collect()
    assert first.tolist() == [[place] * 3 for place in range(4)]
