"""Which example is read when: pure functions of (seed, position), so nothing has to be saved.

The stream of a whole job is one line of positions 0, 1, 2, ...; step `s` of a job whose global
batch has `B` videos reads positions `s*B .. s*B + B - 1`, and host `h` of `H` the `h`-th block of
`B/H` of them. Every epoch is a permutation of the examples, or a draw that balances the classes.
Any step can be the first one, at no cost, and the number of hosts changes nothing but who reads
what.
"""

import functools
import itertools
import threading
from typing import NamedTuple

import numpy as np

_MASK = 2**64 - 1
# Class weights are rounded to this share of 1, so that the powers of all machines agree.
_WEIGHT_UNIT = 2**32


class Turn(NamedTuple):
    """Whose turn a position is: `occurrence` tells an example's turns in one `epoch` apart."""

    epoch: int
    example: int
    occurrence: int


class Order:
    """The stream of a run over `size` examples; threads may share one.

    Args:
        seed: of the run.
        size: the number of examples, which is the length of an epoch.
        labels: the class of every example, int [size]; read only when `balance` is above 0.
        balance: 0, every example once an epoch, to 1, every class equally often; see
            `balanced_turns`.
    """

    def __init__(
        self, seed: int, size: int, labels: np.ndarray | None = None, balance: float = 0.0
    ) -> None:
        self._seed, self._size = seed, size
        self._labels, self._balance = labels, balance
        self._lock = threading.Lock()
        self._balanced = functools.lru_cache(maxsize=2)(self._balanced_epoch)

    def at(self, position: int) -> Turn:
        """Whose turn `position` is."""
        # Without the lock all threads would sort the same new epoch.
        with self._lock:
            if not self._balance:
                return Turn(*example_at(self._seed, position, self._size), occurrence=0)
            epoch, offset = divmod(position, self._size)
            examples, occurrences = self._balanced(epoch)
        return Turn(epoch, int(examples[offset]), int(occurrences[offset]))

    def _balanced_epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Example and occurrence at every position of an epoch, int64 [size] each."""
        turns = balanced_turns(self._seed, epoch, self._labels, self._balance)
        examples = np.repeat(np.arange(self._size), turns)
        occurrences = np.arange(self._size) - np.repeat(np.cumsum(turns) - turns, turns)
        shuffled = permutation(self._seed, epoch, self._size)
        return examples[shuffled], occurrences[shuffled]


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


def balanced_turns(seed: int, epoch: int, labels: np.ndarray, balance: float) -> np.ndarray:
    """How often each example comes in a balanced epoch: int64 [N], N in all, for `labels` [N].

    A class of n examples weighs n**(1 - balance): by its size at 0, by its square root at 0.5, like
    every other class at 1. Its share of the epoch is rounded up or down, over the epochs right on
    average. Its examples share that evenly; whose turn it is once more is drawn in every epoch.
    """
    _, class_of, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    bits = _choice_bits(seed, epoch, len(labels) + 1)
    each, extra = np.divmod(class_quotas(sizes, balance, int(bits[-1])), sizes)
    by_class = np.lexsort((bits[:-1], class_of))
    rank = np.empty(len(labels), np.int64)
    rank[by_class] = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return each[class_of] + (rank < extra[class_of])


def class_quotas(sizes: np.ndarray, balance: float, shift: int) -> np.ndarray:
    """How often each class comes in an epoch of sum(`sizes`) positions: int64 [K], exact.

    Systematic rounding: the cumulative shares are all moved by the fraction `shift` / 2**64 and cut
    to whole numbers, so a uniform `shift` gives every class its share on average.
    """
    # Whole numbers of any length: in floats a share could fall on either side of a border.
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
    """The stream position of row `row` of the batch that host `process_index` reads at `step`.

    `batch_size` is the global number of videos and a multiple of `process_count`.
    """
    return step * batch_size + process_index * (batch_size // process_count) + row


def example_rng(
    seed: int, epoch: int, example_id: int, *, occurrence: int = 0, attempt: int = 0
) -> np.random.Generator:
    """The random draws of one example in one epoch, the same on every host and after any restart.

    `occurrence` tells its turns in the epoch apart, `attempt` the replacements tried in its place.
    Philox is counter based, so no two streams overlap: the key is (seed, epoch), and the counter's
    words are, from the lowest, the draws, the occurrence (its upper half tells `siblings`), the
    attempt and the example. Top word 0 belongs to the order.
    """
    counter = np.array([0, occurrence, attempt, example_id + 1], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=_key(seed, epoch), counter=counter))


def siblings(rng: np.random.Generator, count: int) -> list[np.random.Generator]:
    """`rng` of `example_rng` itself and `count - 1` more, each with draws of its own."""
    return [rng, *(_sibling(rng, place) for place in range(1, count))]


def _sibling(rng: np.random.Generator, place: int) -> np.random.Generator:
    bits = np.random.Philox(0)
    bits.state = rng.bit_generator.state
    return np.random.Generator(bits.advance(place << 96))


def _choice_bits(seed: int, epoch: int, count: int) -> np.ndarray:
    # The permutation has the counters from 0 on, and would need 2**130 examples to get here.
    return np.random.Philox(key=_key(seed, epoch), counter=[0, 0, 1, 0]).random_raw(count)


def _key(seed: int, epoch: int) -> np.ndarray:
    return np.array([seed & _MASK, epoch], dtype=np.uint64)
