"""Which example is read when: pure functions of (seed, position), so nothing has to be saved.

The stream of a whole job is one line of positions 0, 1, 2, ...; step `s` of a job with global
batch `B` reads positions `s*B .. s*B + B - 1`, and host `h` of `H` the `h`-th block of `B/H` of
them. Every epoch is a permutation of the examples. Any step can be the first one, at no cost, and
the number of hosts changes nothing but who reads what.
"""

import functools

import numpy as np

_MASK = 2**64 - 1


def example_at(seed: int, position: int, size: int) -> tuple[int, int]:
    """The (epoch, example index) at `position` of the shuffled stream over `size` examples."""
    epoch, offset = divmod(position, size)
    return epoch, int(permutation(seed, epoch, size)[offset])


@functools.lru_cache(maxsize=4)
def permutation(seed: int, epoch: int, size: int) -> np.ndarray:
    """The order of epoch `epoch`: int64 [size], each of 0 .. size-1 once, read-only.

    It sorts Philox's raw bits, which NumPy promises never to change; `Generator.permutation` makes
    no such promise, and a resumed run must read what the first one would have read.
    """
    bits = np.random.Philox(key=_key(seed, epoch)).random_raw(size)
    order = np.argsort(bits, kind="stable")
    order.flags.writeable = False
    return order


def host_position(
    step: int, row: int, *, batch_size: int, process_index: int = 0, process_count: int = 1
) -> int:
    """The stream position of row `row` of the batch that host `process_index` reads at `step`.

    `batch_size` is the global one and a multiple of `process_count`.
    """
    return step * batch_size + process_index * (batch_size // process_count) + row


def example_rng(seed: int, epoch: int, example_id: int) -> np.random.Generator:
    """The random draws of one example in one epoch, the same on every host and after any restart.

    Philox is counter based: the key is (seed, epoch) and the counter's top word the example, so no
    two streams overlap. Top word 0 belongs to the permutation.
    """
    counter = np.array([0, 0, 0, example_id + 1], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=_key(seed, epoch), counter=counter))


def _key(seed: int, epoch: int) -> np.ndarray:
    return np.array([seed & _MASK, epoch], dtype=np.uint64)
