"""The order in which examples are read: pure functions of (seed, position), without saved state.

The stream of a run is a sequence of positions 0, 1, 2, ... Step `s` of a run whose global batch has
`B` videos reads positions `s*B .. s*B + B - 1`, and host `h` of `H` reads the `h`-th block of `B/H`
of them. Every epoch is a permutation of the examples, or a draw that balances the classes. A run
can start at any step at no cost, and the number of hosts does not change the stream.
"""

import functools
import hashlib
import itertools
import threading
from typing import NamedTuple

import numpy as np

_MASK = 2**64 - 1
# Class weights are rounded to multiples of 1/2**32, because powers differ in the last bits between
# machines.
_WEIGHT_UNIT = 2**32


class SamplerState(NamedTuple):
    """The example at a position; `occurrence` counts its earlier positions in the same epoch."""

    epoch: int
    example: int
    occurrence: int


class Sampler:
    """The stream of a run over `size` examples; threads may share a sampler.

    Args:
      seed: the seed of the run.
      size: the number of examples, which is the length of an epoch.
      labels: the class of every example, int [size]; read only when `balance` is above 0.
      balance: 0 for every example once an epoch, up to 1 for every class equally often; see
        `balanced_counts`.
    """

    def __init__(
        self, seed: int, size: int, labels: np.ndarray | None = None, balance: float = 0.0
    ) -> None:
        self._seed, self._size = seed, size
        self._labels, self._balance = labels, balance
        self._lock = threading.Lock()
        self._balanced = functools.lru_cache(maxsize=2)(self._balanced_epoch)

    def at(self, position: int) -> SamplerState:
        """Return the example at `position` of the stream."""
        # Without the lock every thread would sort the same new epoch.
        with self._lock:
            if not self._balance:
                epoch, example = example_at(self._seed, position, self._size)
                return SamplerState(epoch, example, occurrence=0)
            epoch, offset = divmod(position, self._size)
            examples, occurrences = self._balanced(epoch)
        return SamplerState(epoch, int(examples[offset]), int(occurrences[offset]))

    def _balanced_epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return example and occurrence at every position of an epoch, int64 [size] each."""
        counts = balanced_counts(self._seed, epoch, self._labels, self._balance)
        examples = np.repeat(np.arange(self._size), counts)
        occurrences = np.arange(self._size) - np.repeat(np.cumsum(counts) - counts, counts)
        shuffled = permutation(self._seed, epoch, self._size)
        return examples[shuffled], occurrences[shuffled]


def example_at(seed: int, position: int, size: int) -> tuple[int, int]:
    """Return (epoch, example index) at `position` of the shuffled stream over `size` examples."""
    epoch, offset = divmod(position, size)
    return epoch, int(permutation(seed, epoch, size)[offset])


@functools.lru_cache(maxsize=4)
def permutation(seed: int, epoch: int, size: int) -> np.ndarray:
    """Return the order of an epoch: int64 [size], each of 0 .. size-1 once, read-only.

    The order comes from sorting Philox's raw bits, which NumPy guarantees never to change.
    `Generator.permutation` has no such guarantee, and a resumed run must read the same examples.
    """
    bits = np.random.Philox(key=_key(seed, epoch)).random_raw(size)
    order = np.argsort(bits, kind="stable")
    order.flags.writeable = False
    return order


def balanced_counts(seed: int, epoch: int, labels: np.ndarray, balance: float) -> np.ndarray:
    """Return the number of positions of each example in a balanced epoch, for `labels` [N].

    A class of n examples has the weight n**(1 - balance): its size at 0, its square root at 0.5,
    the same as every other class at 1. Its share of the epoch is rounded up or down at random, so
    that the mean over epochs is exact. Within a class the counts differ by one at most; the
    examples with one more are drawn anew in every epoch. The result is int64 [N], with the sum N.
    """
    _, class_of, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    bits = _choice_bits(seed, epoch, len(labels) + 1)
    each, extra = np.divmod(class_quotas(sizes, balance, int(bits[-1])), sizes)
    by_class = np.lexsort((bits[:-1], class_of))
    rank = np.empty(len(labels), np.int64)
    rank[by_class] = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return each[class_of] + (rank < extra[class_of])


def class_quotas(sizes: np.ndarray, balance: float, shift: int) -> np.ndarray:
    """Return the positions of each class in an epoch of sum(`sizes`) positions: int64 [K], exact.

    This is systematic rounding: all cumulative shares are moved by the fraction `shift` / 2**64 and
    rounded down, so with a uniform `shift` every class gets its share on average.
    """
    # Python integers, because in floating point a share could fall on either side of a border.
    weights = [round(n ** (1 - balance) * _WEIGHT_UNIT) for n in sizes.tolist()]
    total, size = sum(weights), int(sizes.sum())
    borders = [
        (size * (weight << 64) + shift * total) // (total << 64)
        for weight in itertools.accumulate(weights, initial=0)
    ]
    return np.diff(np.array(borders, np.int64))


def host_position(
    step: int, row: int, *, batch_size: int, process_index: int = 0, process_count: int = 1
) -> int:
    """Return the stream position of row `row` of the batch of host `process_index` at `step`.

    `batch_size` is the global number of videos and a multiple of `process_count`.
    """
    return step * batch_size + process_index * (batch_size // process_count) + row


def example_rng(
    seed: int, epoch: int, example_id: int, *, occurrence: int = 0, attempt: int = 0
) -> np.random.Generator:
    """Return the generator of one example in one epoch, the same on every host.

    `occurrence` distinguishes the positions of the example in the epoch, `attempt` the replacements
    that are tried in its place. Philox is counter based, so no two streams overlap. Its key is
    (seed, epoch). The words of its counter are, from the lowest, the draws, the occurrence (its
    upper half is the index in `rng_streams`), the attempt, and the example plus one; `permutation`
    has the counters whose highest word is 0.
    """
    counter = np.array([0, occurrence, attempt, example_id + 1], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=_key(seed, epoch), counter=counter))


def rng_streams(rng: np.random.Generator, count: int) -> list[np.random.Generator]:
    """Return `count` independent generators: `rng` of `example_rng` itself, then new ones."""
    return [rng, *(_advanced(rng, index) for index in range(1, count))]


def _advanced(rng: np.random.Generator, index: int) -> np.random.Generator:
    bits = np.random.Philox(0)
    bits.state = rng.bit_generator.state
    return np.random.Generator(bits.advance(index << 96))


def named_rng(rng: np.random.Generator, name: str, occurrence: int = 0) -> np.random.Generator:
    """Return a generator for `name` that depends on the stream of `rng`, and not on its draws.

    `rng` is one of `example_rng` or `rng_streams`, and stays as it is. The key is a digest of the
    stream's key and counter without its lowest word, which counts the draws.
    """
    state = rng.bit_generator.state["state"]
    stream = [*state["key"].tolist(), *state["counter"][1:].tolist(), name, occurrence]
    digest = hashlib.sha256(repr(stream).encode()).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(digest[:16], "<u8")))


def _choice_bits(seed: int, epoch: int, count: int) -> np.ndarray:
    # `permutation` has the counters from 0 on, and would need 2**130 examples to reach this one.
    return np.random.Philox(key=_key(seed, epoch), counter=[0, 0, 1, 0]).random_raw(count)


def _key(seed: int, epoch: int) -> np.ndarray:
    return np.array([seed & _MASK, epoch], dtype=np.uint64)
