"""The TPU kernels for tokens, interpreted: equal to plain layers, in values and every gradient."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from vswin_jax.kernels import (
    Branches,
    NormDense,
    add_branches,
    chip_memory,
    fused_layers,
    fuses,
    norm_dense,
)
from vswin_jax.kernels.chip_memory import Chip
from vswin_jax.kernels.token_tiling import Needs, Tokens, make_plan, tile_of

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("quick_compiler")]

EPSILON = 1e-5
TOLERANCES = {"float32": 1e-4, "bfloat16": 2e-2}


def normal(seed: int, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape, dtype)


def random_branches(channels: int, hidden: int) -> Branches:
    shapes = [(channels, channels), channels, channels, channels]
    shapes += [(channels, hidden), hidden, (hidden, channels), channels]
    sizes = [shape if isinstance(shape, tuple) else (shape,) for shape in shapes]
    return Branches(*(normal(9 + i, size) / size[0] ** 0.5 for i, size in enumerate(sizes)))


def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    centred = x - x.mean(-1, keepdims=True)
    return centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + EPSILON) * scale + bias


def plain_norm_dense(x: jax.Array, weights: NormDense) -> tuple[jax.Array, jax.Array]:
    normalised = layer_norm(x, weights.scale, weights.norm_bias)
    return normalised @ weights.kernel + weights.bias, x


def plain_branches(
    x: jax.Array, attended: jax.Array, factors: jax.Array | None, weights: Branches
) -> jax.Array:
    first, second = (1.0, 1.0) if factors is None else factors[:, :, None, None]
    x = x + first * (attended @ weights.proj_kernel + weights.proj_bias)
    normalised = layer_norm(x, weights.scale, weights.norm_bias)
    hidden = jax.nn.gelu(normalised @ weights.kernel1 + weights.bias1, approximate=False)
    return x + second * (hidden @ weights.kernel2 + weights.bias2)


def value_and_gradients(function: Callable[..., Any], *arguments: Any) -> list[np.ndarray]:
    """The outputs, and the gradients of a weighted sum of all of them."""

    def loss(*arguments: Any) -> tuple[jax.Array, Any]:
        outs = jax.tree.leaves(function(*arguments))
        weighted = [(out * normal(i, out.shape)).sum() for i, out in enumerate(outs)]
        return sum(weighted), outs

    places = tuple(range(len(arguments)))
    grads, outs = jax.jit(jax.grad(loss, places, has_aux=True))(*arguments)
    return [np.asarray(leaf, np.float32) for leaf in jax.tree.leaves((outs, grads))]


def assert_near(ours: list[np.ndarray], wanted: list[np.ndarray], dtype: str) -> None:
    for place, (a, b) in enumerate(zip(ours, wanted, strict=True)):
        error = np.linalg.norm(a - b) / max(np.linalg.norm(b), 0.1)
        assert error < TOLERANCES[dtype], (place, error)


SIZES = settings(max_examples=8, deadline=None, phases=[Phase.generate])
ANY_SIZE = {
    "clips": st.integers(1, 3),
    # One block, of any size; several blocks.
    "tokens": st.sampled_from([1, 7, 49, 1536]),
    "channels": st.sampled_from([8, 96, 128]),
    "dtype": st.sampled_from(list(TOLERANCES)),
}


@SIZES
@given(**ANY_SIZE, outputs=st.sampled_from([24, 640]))
def test_norm_and_product(clips: int, tokens: int, channels: int, dtype: str, outputs: int) -> None:
    x = normal(1, (clips, tokens, channels), dtype)
    weights = NormDense(
        1 + 0.1 * normal(2, (channels,)),
        normal(3, (channels,)),
        normal(4, (channels, outputs)) / channels**0.5,
        normal(5, (outputs,)),
    )
    ours = value_and_gradients(lambda *a: norm_dense(*a, EPSILON), x, weights)
    wanted = value_and_gradients(plain_norm_dense, x.astype(jnp.float32), weights)
    assert_near(ours, wanted, dtype)


@SIZES
@given(**ANY_SIZE, hidden=st.sampled_from([32, 1024]), drops=st.booleans())
def test_both_branches(
    clips: int, tokens: int, channels: int, dtype: str, hidden: int, drops: bool
) -> None:
    x, attended = (normal(i, (clips, tokens, channels), dtype) for i in (1, 2))
    factors = jnp.array([[0.0, 1.25, 1.25], [1.25, 0.0, 1.25]])[:, :clips] if drops else None
    weights = random_branches(channels, hidden)
    ours = value_and_gradients(
        lambda *a: add_branches(*a[:2], factors, a[2], EPSILON), x, attended, weights
    )
    wanted = value_and_gradients(
        lambda *a: plain_branches(*a[:2], factors, a[2]),
        *(array.astype(jnp.float32) for array in (x, attended)),
        weights,
    )
    assert_near(ours, wanted, dtype)


def test_a_branch_that_is_dropped_may_be_infinite() -> None:
    x, attended = normal(1, (2, 8, 16)), jnp.full((2, 8, 16), jnp.inf)
    out = add_branches(x, attended, jnp.zeros((2, 2)), random_branches(16, 32), EPSILON)
    np.testing.assert_array_equal(out, x)


def test_two_cores_share_the_blocks_and_their_gradients_are_summed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, weights = normal(1, (2, 64, 16)), random_branches(16, 32)
    one, two = [], []
    for cores, results in ((1, one), (2, two)):
        monkeypatch.setattr(chip_memory, "SMALLEST", Chip(2**24, cores))
        results += value_and_gradients(
            lambda x, w: add_branches(x, x, None, w, EPSILON), x, weights
        )
    assert_near(two, one, "float32")


def test_blocks_are_whole_tiles_of_a_clip_or_all_of_it() -> None:
    chip = Chip(vector_memory=2**20, cores=2)

    def rows(tokens: int, streamed: int = 256) -> int | None:
        plan = make_plan(Tokens(2, tokens, itemsize=2), Needs(streamed, 0, fixed=0), chip)
        return plan and plan.rows

    assert (rows(3136), rows(392), rows(50)) == (784, 392, 50)
    # 1024 bytes a token, of 2**20.
    assert (rows(1024), rows(1024, streamed=512)) == (1024, 512)
    assert rows(1021, streamed=512) is None


@pytest.mark.parametrize(
    ("channels", "tile"), [(288, 288), (768, 384), (1536, 512), (3072, 512), (520, 520)]
)
def test_channels_pass_in_equal_tiles_of_whole_lanes(channels: int, tile: int) -> None:
    assert tile_of(channels) == tile


def test_the_layers_are_taken_where_kernels_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    x = jnp.zeros((2, 4, 16), jnp.bfloat16)
    assert not fuses("auto", x, 64, drops=False)
    assert fuses("pallas_tpu", x, 64, drops=False)
    monkeypatch.setattr(fused_layers, "target_platform", lambda: "tpu")
    tiny = fused_layers.Settings(EPSILON, Chip(vector_memory=2**10, cores=1), interpret=True)
    monkeypatch.setattr(fused_layers, "_settings", lambda epsilon: tiny)
    assert not fuses("auto", x, 64, drops=False)
    assert not fuses("auto", x.astype(jnp.float16), 64, drops=False)
