"""Tests of the interpreted TPU kernels against `xla` in float32: values and every gradient."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sharded_attention
from attention_operands import TOLERANCES, operands, value_and_gradients
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from vswin_jax.attention import WindowGeometry, window_attention
from vswin_jax.errors import InputError
from vswin_jax.kernels import chip_memory
from vswin_jax.kernels.attention_tpu_tiling import (
    AttentionSizes,
    AttentionTiling,
    choose_attention_tiling,
)
from vswin_jax.kernels.chip_memory import ChipMemory

# grid, window and shift, as `WindowGeometry.create` takes them
GRIDS = {
    "regular": ((2, 4, 4), (2, 2, 4), (0, 0, 0)),
    "shifted": ((2, 4, 4), (2, 2, 4), (1, 1, 2)),
    "padded": ((3, 3, 5), (2, 2, 4), (1, 1, 2)),
    "clamped": ((1, 4, 3), (2, 2, 4), (1, 1, 2)),
}


def assert_equal_to_xla(
    qkv: jax.Array, bias: jax.Array, weights: jax.Array, ids: np.ndarray | None
) -> None:
    def attend(name: str) -> Callable[[jax.Array, jax.Array], jax.Array]:
        return lambda qkv, bias: window_attention(qkv, bias, ids, implementation=name)

    ours = value_and_gradients(attend("pallas_tpu"), qkv, bias, weights)
    expected = value_and_gradients(attend("xla"), qkv.astype(jnp.float32), bias, weights)
    assert [x.dtype for x in ours] == [qkv.dtype] * 4 + [jnp.float32]
    for name, a, b in zip(("out", "q", "k", "v", "bias"), ours, expected, strict=True):
        # If every token is alone in its segment, some gradients are 0. They are differences of two
        # sums over `dim`, each about as large as the root of `dim`, so `xla` returns the rounding
        # errors of such sums.
        scale = max(np.linalg.norm(b), 0.1, 0.01 * np.sqrt(b.size * qkv.shape[-1]))
        error = np.linalg.norm(a.astype(jnp.float32) - b) / scale
        assert error < TOLERANCES[qkv.dtype.name], (name, error)


@pytest.mark.parametrize(
    "dtype",
    [
        pytest.param(name, marks=[] if name == "bfloat16" else [pytest.mark.long])
        for name in TOLERANCES
    ],
)
@pytest.mark.parametrize("kind", GRIDS)
def test_every_kind_of_window_equals_xla(kind: str, dtype: str) -> None:
    geometry = WindowGeometry.create(*GRIDS[kind])
    assert geometry.is_shifted == (kind != "regular")
    shape = (2, geometry.num_windows, geometry.tokens)
    assert_equal_to_xla(*operands(shape, 3, 8, dtype), geometry.segment_ids)


@pytest.mark.long
def test_segments_of_one_token_each_equal_xla() -> None:
    ids = np.array([[2, 1], [2, 0]], np.int8)
    assert_equal_to_xla(*operands((2, 2, 2), 2, 128, "float32"), ids)


@pytest.mark.long
def test_a_window_of_the_published_size_equals_xla() -> None:
    geometry = WindowGeometry.create((8, 14, 7), (8, 7, 7), (4, 3, 3))
    assert (geometry.tokens, geometry.num_windows) == (392, 2)
    assert_equal_to_xla(*operands((1, 2, 392), 4, 32, "bfloat16"), geometry.segment_ids)


@pytest.mark.long
@settings(max_examples=6, deadline=None, phases=[Phase.generate])
@given(
    batch=st.integers(1, 2),
    windows=st.integers(1, 3),
    tokens=st.integers(1, 20),
    # Lanes of all heads: fewer than 128, 128, more and unaligned, two groups of 128.
    lanes=st.sampled_from([(1, 4), (4, 32), (6, 32), (8, 32), (2, 128), (3, 48)]),
    dtype=st.sampled_from(list(TOLERANCES)),
    seed=st.none() | st.integers(0, 99),
)
def test_any_size_equals_xla(
    batch: int,
    windows: int,
    tokens: int,
    lanes: tuple[int, int],
    dtype: str,
    seed: int | None,
) -> None:
    ids = None
    if seed is not None:
        ids = np.random.default_rng(seed).integers(0, 3, (windows, tokens), np.int8)
    assert_equal_to_xla(*operands((batch, windows, tokens), *lanes, dtype), ids)


def backward_tiling(
    tokens: int, heads: int, chip: ChipMemory, itemsize: int = 2
) -> AttentionTiling | None:
    sizes = AttentionSizes(
        windows=4, tokens=tokens, heads=heads, dim=32, period=2, itemsize=itemsize
    )
    return choose_attention_tiling(sizes, chip, backward=True)


SMALL = ChipMemory(vmem_bytes=1400 * 2**10, cores=1)
TWO_CORES = ChipMemory(vmem_bytes=2**24, cores=2)


@pytest.mark.long
@pytest.mark.parametrize(
    ("heads", "chip", "tiles", "splits"),
    [(3, SMALL, 4, 1), (8, SMALL, 4, 1), (4, TWO_CORES, 1, 2)],
    ids=["tiles of a packed block", "tiles of a group of heads", "two cores"],
)
def test_chips_with_little_vmem_or_two_cores_equal_xla(
    monkeypatch: pytest.MonkeyPatch, heads: int, chip: ChipMemory, tiles: int, splits: int
) -> None:
    monkeypatch.setattr(chip_memory, "SMALLEST", chip)
    tiling = backward_tiling(128, heads, chip, itemsize=4)
    assert tiling is not None
    assert (tiling.tiles, tiling.splits) == (tiles, splits)
    ids = np.random.default_rng(0).integers(0, 3, (2, 128), np.int8)
    assert_equal_to_xla(*operands((2, 2, 128), heads, 32, "float32"), ids)


def test_tilings_of_the_published_models() -> None:
    # 16 and 128 MiB: a v4 reads a window's keys again for each tile, a v5e does not need to.
    v4, v5e = (ChipMemory(vmem_bytes=n * 2**20, cores=1) for n in (16, 128))
    tiles = {n: [backward_tiling(n, 8, chip).tiles for chip in (v4, v5e)] for n in (392, 784, 1152)}
    assert tiles == {392: [1, 1], 784: [7, 1], 1152: [6, 1]}
    assert not backward_tiling(392, 8, v4).packed
    assert backward_tiling(392, 4, v4).packed
    assert backward_tiling(392, 6, v4).packed
    assert backward_tiling(392 * 16, 8, v4) is None


RECORD_SHAPES = """
from vswin_jax.kernels import attention_tpu
run_forward = attention_tpu._run_forward
def recorded(qkv, *rest):
    local.add(qkv.shape)
    return run_forward(qkv, *rest)
attention_tpu._run_forward = recorded
attend = functools.partial(window_attention, segment_ids=ids, implementation="pallas_tpu")
"""


@pytest.mark.long
def test_every_device_of_a_mesh_attends_in_its_own_shard() -> None:
    report = sharded_attention.report(RECORD_SHAPES)
    assert report["local"] == [[2, 9, 96]]
    assert max(report["errors"]) < 1e-5
    # The gradient of the bias is the only sum.
    assert report["collectives"] == ["all-reduce"]


def test_dropout_is_an_error() -> None:
    qkv, bias, _ = operands((1, 1, 4), 1, 4, "float32")
    arguments = {"dropout_key": jax.random.key(0), "dropout_rate": 0.1}
    with pytest.raises(InputError, match="'pallas_tpu' cannot be used: it does not drop"):
        window_attention(qkv, bias, None, implementation="pallas_tpu", **arguments)
