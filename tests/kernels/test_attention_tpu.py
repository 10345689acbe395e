"""The TPU kernels, interpreted: equal to `xla` in float32, in values and in every gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import spread_attention
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from vswin_jax.attention import WindowGeometry, window_attention
from vswin_jax.errors import InputError
from vswin_jax.kernels import chip_memory
from vswin_jax.kernels.attention_tpu_tiling import Plan, Sizes, make_plan
from vswin_jax.kernels.chip_memory import Chip

pytestmark = pytest.mark.usefixtures("quick_compiler")

# grid, window and shift, as `WindowGeometry.create` takes them
GRIDS = {
    "regular": ((2, 4, 4), (2, 2, 4), (0, 0, 0)),
    "shifted": ((2, 4, 4), (2, 2, 4), (1, 1, 2)),
    "padded": ((3, 3, 5), (2, 2, 4), (1, 1, 2)),
    "clamped": ((1, 4, 3), (2, 2, 4), (1, 1, 2)),
}
TOLERANCES = {"float32": 1e-4, "bfloat16": 2e-2}


def operands(
    batch: int, windows: int, tokens: int, heads: int, dim: int, dtype: str
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """qkv, bias, and weights of the outputs, whose sum is what is differentiated."""
    keys = jax.random.split(jax.random.key(0), 3)
    qkv = jax.random.normal(keys[0], (batch, windows, tokens, 3, heads, dim), dtype)
    bias = jax.random.normal(keys[1], (heads, tokens, tokens))
    return qkv, bias, jax.random.normal(keys[2], (batch, windows, tokens, heads, dim))


def value_and_gradients(
    name: str, qkv: jax.Array, bias: jax.Array, weights: jax.Array, ids: np.ndarray | None
) -> tuple[jax.Array, ...]:
    """The outputs, and the gradients of queries, keys, values and bias."""

    def loss(qkv: jax.Array, bias: jax.Array) -> tuple[jax.Array, jax.Array]:
        out = window_attention(qkv, bias, ids, implementation=name)
        return (out * weights).sum(), out

    (_, out), (qkv, bias) = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(qkv, bias)
    return out, *jnp.moveaxis(qkv, 3, 0), bias


def assert_equal_to_xla(
    qkv: jax.Array, bias: jax.Array, weights: jax.Array, ids: np.ndarray | None
) -> None:
    ours = value_and_gradients("pallas_tpu", qkv, bias, weights, ids)
    wanted = value_and_gradients("xla", qkv.astype(jnp.float32), bias, weights, ids)
    assert [x.dtype for x in ours] == [qkv.dtype] * 4 + [jnp.float32]
    for name, a, b in zip(("out", "q", "k", "v", "bias"), ours, wanted, strict=True):
        # Where every token is alone in its region some gradients are 0: differences of two sums
        # over `dim`, each as large as its root, of which `xla` leaves what rounding does.
        scale = max(np.linalg.norm(b), 0.1, 0.01 * np.sqrt(b.size * qkv.shape[-1]))
        error = np.linalg.norm(a.astype(jnp.float32) - b) / scale
        assert error < TOLERANCES[qkv.dtype.name], (name, error)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("kind", GRIDS)
def test_windows_of_every_kind(kind: str, dtype: str) -> None:
    geometry = WindowGeometry.create(*GRIDS[kind])
    assert geometry.is_shifted == (kind != "regular")
    shape = (2, geometry.num_windows, geometry.tokens)
    assert_equal_to_xla(*operands(*shape, 3, 8, dtype), geometry.region_ids)


def test_tokens_that_are_all_alone() -> None:
    ids = np.array([[2, 1], [2, 0]], np.int8)
    assert_equal_to_xla(*operands(2, 2, 2, 2, 128, "float32"), ids)


def test_a_window_of_the_published_size() -> None:
    geometry = WindowGeometry.create((8, 14, 7), (8, 7, 7), (4, 3, 3))
    assert (geometry.tokens, geometry.num_windows) == (392, 2)
    assert_equal_to_xla(*operands(1, 2, 392, 4, 32, "bfloat16"), geometry.region_ids)


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
def test_any_size(
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
    assert_equal_to_xla(*operands(batch, windows, tokens, *lanes, dtype), ids)


def plan_of(tokens: int, heads: int, chip: Chip, itemsize: int = 2) -> Plan | None:
    return make_plan(Sizes(4, tokens, heads, 32, 2, itemsize), chip, backward=True)


SMALL = Chip(vector_memory=1400 * 2**10, cores=1)
TWO_CORES = Chip(vector_memory=2**24, cores=2)


@pytest.mark.parametrize(
    ("heads", "chip", "tiles", "splits"),
    [(3, SMALL, 4, 1), (8, SMALL, 4, 1), (4, TWO_CORES, 1, 2)],
    ids=["tiles of a packed block", "tiles of a group of heads", "two cores"],
)
def test_chips_with_little_memory_or_two_cores(
    monkeypatch: pytest.MonkeyPatch, heads: int, chip: Chip, tiles: int, splits: int
) -> None:
    monkeypatch.setattr(chip_memory, "SMALLEST", chip)
    plan = plan_of(128, heads, chip, itemsize=4)
    assert plan is not None
    assert (plan.tiles, plan.splits) == (tiles, splits)
    ids = np.random.default_rng(0).integers(0, 3, (2, 128), np.int8)
    assert_equal_to_xla(*operands(2, 2, 128, heads, 32, "float32"), ids)


def test_plans_of_the_published_models() -> None:
    # 16 and 128 MiB: a v4 reads a window's keys again for each tile, a v5e does not need to.
    v4, v5e = Chip(16 * 2**20, 1), Chip(128 * 2**20, 1)
    tiles = {n: [plan_of(n, 8, chip).tiles for chip in (v4, v5e)] for n in (392, 784, 1152)}
    assert tiles == {392: [1, 1], 784: [7, 1], 1152: [6, 1]}
    assert not plan_of(392, 8, v4).packed
    assert plan_of(392, 4, v4).packed
    assert plan_of(392, 6, v4).packed
    assert plan_of(392 * 16, 8, v4) is None


WATCHED = """
from vswin_jax.kernels import attention_tpu
forward = attention_tpu._forward
def watched(qkv, *rest):
    local.add(qkv.shape)
    return forward(qkv, *rest)
attention_tpu._forward = watched
attend = functools.partial(window_attention, region_ids=ids, implementation="pallas_tpu")
"""


def test_every_device_of_a_mesh_attends_in_what_it_holds() -> None:
    report = spread_attention.report(WATCHED)
    assert report["local"] == [[2, 9, 96]]
    assert max(report["errors"]) < 1e-5
    # The gradient of the bias is the only sum.
    assert report["collectives"] == ["all-reduce"]


def test_dropped_weights_are_refused() -> None:
    qkv, bias, _ = operands(1, 1, 4, 1, 4, "float32")
    arguments = {"dropout_key": jax.random.key(0), "dropout_rate": 0.1}
    with pytest.raises(InputError, match="'pallas_tpu' cannot be used: it does not drop"):
        window_attention(qkv, bias, None, implementation="pallas_tpu", **arguments)
