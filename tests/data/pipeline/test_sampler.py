import threading
from collections import Counter

import numpy as np
import pytest

from vswin_jax.data.pipeline import sampler
from vswin_jax.data.pipeline.sampler import (
    Sampler,
    SamplerState,
    balanced_counts,
    class_quotas,
    example_at,
    example_rng,
    host_position,
    permutation,
    rng_streams,
)

# 3 of class 0, 1 of class 1, none of class 2, 20 of class 3.
LABELS = np.full(24, 3, np.int32)
LABELS[[5, 12, 22]], LABELS[9] = 0, 1
MEMBERS = [[5, 12, 22], [9], [k for k in range(24) if k not in (5, 9, 12, 22)]]


def test_every_epoch_has_every_example_once() -> None:
    size = 37
    for epoch in range(3):
        read = [example_at(5, epoch * size + i, size) for i in range(size)]
        assert [e for e, _ in read] == [epoch] * size
        assert sorted(index for _, index in read) == list(range(size))


def test_epochs_and_seeds_differ() -> None:
    orders = [permutation(seed, epoch, 50).tolist() for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4


def test_permutations_never_change() -> None:
    # A change here would make resumed runs read other examples.
    assert permutation(0, 0, 8).tolist() == [0, 2, 1, 5, 4, 3, 6, 7]
    assert permutation(2**63 + 1, 3, 8).tolist() == [0, 1, 5, 4, 3, 7, 6, 2]


@pytest.mark.parametrize(("batch_size", "hosts"), [(6, 1), (6, 2), (6, 3), (12, 4), (40, 2)])
def test_hosts_split_the_stream_without_gap_or_overlap(batch_size: int, hosts: int) -> None:
    share = batch_size // hosts
    positions = [
        host_position(step, row, batch_size=batch_size, process_index=host, process_count=hosts)
        for step in range(5)
        for host in range(hosts)
        for row in range(share)
    ]
    assert positions == list(range(5 * batch_size))


def test_draws_depend_on_seed_epoch_and_example_alone() -> None:
    def draw(seed: int, epoch: int, example: int) -> float:
        return example_rng(seed, epoch, example).random()

    keys = [(s, e, i) for s in range(3) for e in range(3) for i in range(3)]
    assert len({draw(*key) for key in keys}) == len(keys)
    assert [draw(*key) for key in reversed(keys)] == [draw(*key) for key in keys][::-1]


def test_example_streams_do_not_overlap_the_permutations() -> None:
    bits = set(np.random.Philox(key=[0, 0]).random_raw(5000).tolist())
    for example in range(20):
        stream = example_rng(0, 0, example).bit_generator.random_raw(200)
        assert not bits & set(stream.tolist())


def test_draws_never_change() -> None:
    first = [example_rng(*key).bit_generator.random_raw() for key in ((0, 0, 0), (5, 2, 7))]
    assert first == [6312158256571094726, 2492411537036290913]


def test_occurrences_attempts_and_streams_have_independent_draws() -> None:
    keys = [
        (occurrence, attempt, index)
        for occurrence in range(3)
        for attempt in range(3)
        for index in range(3)
    ]
    streams = []
    for occurrence, attempt, index in keys:
        rng = example_rng(1, 2, 3, occurrence=occurrence, attempt=attempt)
        streams.append(rng_streams(rng, 3)[index].bit_generator.random_raw(500).tolist())
    assert len({bits for stream in streams for bits in stream}) == 500 * len(keys)
    plain = example_rng(1, 2, 3).bit_generator.random_raw(500).tolist()
    assert streams[0] == plain
    # The streams of replacements before occurrences were introduced; these must not change.
    advanced = example_rng(1, 2, 3).bit_generator.advance(2 << 128).random_raw(500).tolist()
    assert streams[keys.index((0, 2, 0))] == advanced


def test_without_balance_the_order_is_the_permutation() -> None:
    sampler = Sampler(5, 7)
    expected = [SamplerState(*example_at(5, i, 7), occurrence=0) for i in range(30)]
    assert [sampler.at(i) for i in range(30)] == expected


def test_a_balance_near_zero_gives_the_plain_order() -> None:
    """With equal counts the balanced order is the permutation."""
    balanced, plain = Sampler(5, 24, LABELS, 1e-12), Sampler(5, 24)
    assert [balanced.at(i) for i in range(72)] == [plain.at(i) for i in range(72)]


@pytest.mark.parametrize("balance", [0.3, 0.5, 1.0])
def test_a_balanced_epoch_has_the_expected_shares(balance: float) -> None:
    sizes = np.array([3, 1, 20])
    shares = sizes ** (1 - balance) / (sizes ** (1 - balance)).sum() * 24
    stream = Sampler(9, 24, LABELS, balance)
    for epoch in range(20):
        states = [stream.at(epoch * 24 + i) for i in range(24)]
        assert {state.epoch for state in states} == {epoch}
        count = Counter(state.example for state in states)
        for members, share in zip(MEMBERS, shares, strict=True):
            each = [count[example] for example in members]
            assert sum(each) in (np.floor(share), np.ceil(share))
            assert set(each) <= {sum(each) // len(each), -(-sum(each) // len(each))}
        # The positions of an example are numbered.
        numbers = {(state.example, state.occurrence) for state in states}
        assert numbers == {(e, k) for e, n in count.items() for k in range(n)}


def test_classes_and_examples_have_their_shares_over_many_epochs() -> None:
    """Fully balanced, each of three classes has 8 of 24 positions; class 3 has 20 examples."""
    epochs = 400
    counts = sum(balanced_counts(0, epoch, LABELS, 1.0) for epoch in range(epochs))
    assert [int(counts[members].sum()) for members in MEMBERS] == [8 * epochs] * 3
    # 160 of 400 epochs, standard deviation 9.8; 8/3 positions of each of class 0, on average.
    assert np.abs(counts[MEMBERS[2]] - 160).max() < 50
    assert np.abs(counts[MEMBERS[0]] - 8 / 3 * epochs).max() < 50


def test_quotas_by_hand() -> None:
    # At 0.5 classes of 4, 1 and 25 weigh 2, 1 and 5: shares 7.5, 3.75, 18.75 of 30, and the
    # borders are 7.5, 11.25 and 30. Moved by 0, 1/4, 1/2 and 3/4 and rounded down: 7 11 30;
    # 7 11 30; 8 11 30; 8 12 30.
    quotas = [class_quotas(np.array([4, 1, 25]), 0.5, k * 2**62).tolist() for k in range(4)]
    assert quotas == [[7, 4, 19], [7, 4, 19], [8, 3, 19], [8, 4, 18]]
    assert np.mean(quotas, axis=0).tolist() == [7.5, 3.75, 18.75]


@pytest.mark.parametrize("shift", [0, 1, 2**63, 2**64 - 1])
def test_quotas_of_kinetics_sizes_are_exact(shift: int) -> None:
    sizes = np.random.default_rng(1).integers(300, 1200, 700)
    for balance in (0.0, 0.37, 1.0):
        quotas = class_quotas(sizes, balance, shift)
        assert quotas.sum() == sizes.sum()
        weights = sizes ** (1.0 - balance)
        assert np.abs(quotas - weights / weights.sum() * sizes.sum()).max() < 1
    np.testing.assert_array_equal(class_quotas(sizes, 0.0, shift), sizes)


def test_balanced_epochs_are_a_function_of_seed_and_epoch() -> None:
    def epoch(seed: int, epoch: int) -> list[SamplerState]:
        stream = Sampler(seed, 24, LABELS, 0.5)
        return [stream.at(epoch * 24 + i) for i in range(24)]

    assert epoch(3, 10**6) == epoch(3, 10**6)
    assert len({tuple(epoch(seed, e)) for seed in (3, 4) for e in (0, 1)}) == 4


def test_balanced_order_never_changes() -> None:
    stream = Sampler(3, 24, LABELS, 0.5)
    assert [tuple(stream.at(24 * 7 + i)[1:]) for i in range(8)] == [
        *((6, 0), (12, 1), (17, 0), (22, 0)),
        *((0, 0), (11, 0), (7, 0), (9, 1)),
    ]


def test_threads_compute_an_epoch_once(monkeypatch: pytest.MonkeyPatch) -> None:
    epochs = []
    compute = sampler.balanced_counts
    monkeypatch.setattr(sampler, "balanced_counts", lambda *a: epochs.append(a[1]) or compute(*a))
    stream, barrier = Sampler(0, 24, LABELS, 0.5), threading.Barrier(8)

    def read() -> None:
        barrier.wait()
        for position in range(48):
            stream.at(position)

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert epochs == [0, 1]
