import numpy as np
import pytest

from vswin_jax.data.order import example_at, example_rng, host_position, permutation


def test_every_epoch_reads_every_example_once() -> None:
    size = 37
    for epoch in range(3):
        read = [example_at(5, epoch * size + i, size) for i in range(size)]
        assert [e for e, _ in read] == [epoch] * size
        assert sorted(index for _, index in read) == list(range(size))


def test_epochs_and_seeds_differ() -> None:
    orders = [permutation(seed, epoch, 50).tolist() for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4


def test_order_is_pinned_for_ever() -> None:
    # A change here would make resumed runs read other examples than they would have.
    assert permutation(0, 0, 8).tolist() == [0, 2, 1, 5, 4, 3, 6, 7]
    assert permutation(2**63 + 1, 3, 8).tolist() == [0, 1, 5, 4, 3, 7, 6, 2]


@pytest.mark.parametrize(("batch_size", "hosts"), [(6, 1), (6, 2), (6, 3), (12, 4), (40, 2)])
def test_hosts_share_the_stream_without_gap_or_overlap(batch_size: int, hosts: int) -> None:
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


def test_an_examples_stream_does_not_touch_the_permutations() -> None:
    bits = set(np.random.Philox(key=[0, 0]).random_raw(5000).tolist())
    for example in range(20):
        stream = example_rng(0, 0, example).bit_generator.random_raw(200)
        assert not bits & set(stream.tolist())
