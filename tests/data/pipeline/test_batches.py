"""Batches are in order whoever fills them, and memory of finished iterators is freed."""

import gc
import itertools
import subprocess
import sys
import time
import weakref
from pathlib import Path

import numpy as np
import pytest

from vswin_jax.data.pipeline.batch_builder import Batch
from vswin_jax.data.pipeline.batches import BatchIterator, make_batches

ROOT = Path(__file__).parents[3]


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


def numbers_of(length: int) -> BatchIterator:
    def load(index: int, rows: Batch) -> None:
        rows["x"][0] = index

    return make_batches(load, length, 2, {"x": (np.int64, ())}, threads=3, prefetch=2)


def test_tensorflow_takes_over_when_it_is_imported() -> None:
    """The order is kept, and no item is filled twice or left out."""
    length, batches = 4000, numbers_of(4000)
    read, fillers, deadline = [], [], time.monotonic() + 60
    while len(read) < length:
        read += next(batches)["x"].tolist()
        fillers.append(type(batches._filler).__name__)
        # Wait for the import in the middle of the stream.
        while len(read) == 400 and batches._import.module is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert read == list(range(length))
    changes = [after for before, after in itertools.pairwise(["", *fillers]) if before != after]
    assert changes == ["ThreadFiller", "TensorflowFiller"]
    with pytest.raises(StopIteration):
        next(batches)


def test_a_short_pass_does_not_import_tensorflow() -> None:
    code = """
import sys
import numpy as np
from vswin_jax.data.pipeline.batches import make_batches

def load(index, rows):
    rows["x"][0] = index

batches = make_batches(load, 6, 3, {"x": (np.int64, ())}, threads=2, prefetch=1)
print([batch["x"].tolist() for batch in batches], "tensorflow" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout == "[[0, 1, 2], [3, 4, 5]] False\n"


def test_batches_before_a_failure_are_complete() -> None:
    def load(index: int, rows: Batch) -> None:
        if index == 5:
            raise ZeroDivisionError(f"item {index}")
        rows["x"][0] = index

    batches = make_batches(load, 12, 2, {"x": (np.int64, ())}, threads=4, prefetch=5)
    assert [next(batches)["x"].tolist() for _ in range(2)] == [[0, 1], [2, 3]]
    with pytest.raises(ZeroDivisionError, match="item 5"):
        next(batches)
    assert list(batches) == []
