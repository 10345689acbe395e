"""Tests of the interpreted token kernels against plain layers: values and every gradient."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from vswin_jax.kernels import (
    BranchParams,
    NormDenseParams,
    add_branches,
    chip_memory,
    fused_layers,
    norm_dense,
    should_fuse,
)
from vswin_jax.kernels.chip_memory import ChipMemory
from vswin_jax.kernels.token_tiling import (
    TokenSizes,
    VmemUsage,
    channel_tile,
    choose_token_tiling,
)

pytestmark = pytest.mark.long

EPSILON = 1e-5
TOLERANCES = {"float32": 1e-4, "bfloat16": 2e-2}


def normal(seed: int, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape, dtype)


def random_branches(channels: int, hidden: int) -> BranchParams:
    shapes = [(channels, channels), channels, channels, channels]
    shapes += [(channels, hidden), hidden, (hidden, channels), channels]
    sizes = [shape if isinstance(shape, tuple) else (shape,) for shape in shapes]
    return BranchParams(*(normal(9 + i, size) / size[0] ** 0.5 for i, size in enumerate(sizes)))


def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    centred = x - x.mean(-1, keepdims=True)
    return centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + EPSILON) * scale + bias


def plain_norm_dense(x: jax.Array, weights: NormDenseParams) -> tuple[jax.Array, jax.Array]:
    normalized = layer_norm(x, weights.scale, weights.norm_bias)
    return normalized @ weights.kernel + weights.bias, x


def plain_branches(
    x: jax.Array, attn_out: jax.Array, factors: jax.Array | None, weights: BranchParams
) -> jax.Array:
    first, second = (1.0, 1.0) if factors is None else factors[:, :, None, None]
    x = x + first * (attn_out @ weights.proj_kernel + weights.proj_bias)
    normalized = layer_norm(x, weights.scale, weights.norm_bias)
    hidden = jax.nn.gelu(normalized @ weights.kernel1 + weights.bias1, approximate=False)
    return x + second * (hidden @ weights.kernel2 + weights.bias2)


def value_and_gradients(function: Callable[..., Any], *arguments: Any) -> list[np.ndarray]:
    """Return the outputs, and the gradients of a weighted sum of all of them."""

    def loss(*arguments: Any) -> tuple[jax.Array, Any]:
        outs = jax.tree.leaves(function(*arguments))
        weighted = [(out * normal(i, out.shape)).sum() for i, out in enumerate(outs)]
        return sum(weighted), outs

    argnums = tuple(range(len(arguments)))
    grads, outs = jax.jit(jax.grad(loss, argnums, has_aux=True))(*arguments)
    return [np.asarray(leaf, np.float32) for leaf in jax.tree.leaves((outs, grads))]


def assert_near(ours: list[np.ndarray], expected: list[np.ndarray], dtype: str) -> None:
    for index, (a, b) in enumerate(zip(ours, expected, strict=True)):
        error = np.linalg.norm(a - b) / max(np.linalg.norm(b), 0.1)
        assert error < TOLERANCES[dtype], (index, error)


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
def test_norm_dense_equals_plain_layers(
    clips: int, tokens: int, channels: int, dtype: str, outputs: int
) -> None:
    x = normal(1, (clips, tokens, channels), dtype)
    weights = NormDenseParams(
        1 + 0.1 * normal(2, (channels,)),
        normal(3, (channels,)),
        normal(4, (channels, outputs)) / channels**0.5,
        normal(5, (outputs,)),
    )
    ours = value_and_gradients(lambda *a: norm_dense(*a, EPSILON), x, weights)
    expected = value_and_gradients(plain_norm_dense, x.astype(jnp.float32), weights)
    assert_near(ours, expected, dtype)


@SIZES
@given(**ANY_SIZE, hidden=st.sampled_from([32, 1024]), drop_path=st.booleans())
def test_add_branches_equals_plain_layers(
    clips: int, tokens: int, channels: int, dtype: str, hidden: int, drop_path: bool
) -> None:
    x, attn_out = (normal(i, (clips, tokens, channels), dtype) for i in (1, 2))
    factors = jnp.array([[0.0, 1.25, 1.25], [1.25, 0.0, 1.25]])[:, :clips] if drop_path else None
    weights = random_branches(channels, hidden)
    ours = value_and_gradients(
        lambda *a: add_branches(*a[:2], factors, a[2], EPSILON), x, attn_out, weights
    )
    expected = value_and_gradients(
        lambda *a: plain_branches(*a[:2], factors, a[2]),
        *(array.astype(jnp.float32) for array in (x, attn_out)),
        weights,
    )
    assert_near(ours, expected, dtype)


def test_a_dropped_branch_may_be_infinite() -> None:
    x, attn_out = normal(1, (2, 8, 16)), jnp.full((2, 8, 16), jnp.inf)
    out = add_branches(x, attn_out, jnp.zeros((2, 2)), random_branches(16, 32), EPSILON)
    np.testing.assert_array_equal(out, x)


def test_two_cores_share_the_blocks_and_their_gradients_are_summed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, weights = normal(1, (2, 64, 16)), random_branches(16, 32)
    one, two = [], []
    for cores, results in ((1, one), (2, two)):
        monkeypatch.setattr(chip_memory, "SMALLEST", ChipMemory(2**24, cores))
        results += value_and_gradients(
            lambda x, w: add_branches(x, x, None, w, EPSILON), x, weights
        )
    assert_near(two, one, "float32")


def test_blocks_are_whole_tiles_of_a_clip_or_all_of_it() -> None:
    chip = ChipMemory(vmem_bytes=2**20, cores=2)

    def rows(tokens: int, streamed: int = 256) -> int | None:
        usage = VmemUsage(streamed=streamed, intermediate=0, fixed=0)
        tiling = choose_token_tiling(TokenSizes(clips=2, count=tokens, itemsize=2), usage, chip)
        return tiling and tiling.rows

    assert (rows(3136), rows(392), rows(50)) == (784, 392, 50)
    # 1024 bytes a token, of 2**20.
    assert (rows(1024), rows(1024, streamed=512)) == (1024, 512)
    assert rows(1021, streamed=512) is None


@pytest.mark.parametrize(
    ("channels", "tile"), [(288, 288), (768, 384), (1536, 512), (3072, 512), (520, 520)]
)
def test_channels_are_cut_into_equal_tiles_of_whole_lanes(channels: int, tile: int) -> None:
    assert channel_tile(channels) == tile


def test_plain_layers_are_used_if_kernels_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    x = jnp.zeros((2, 4, 16), jnp.bfloat16)
    assert not should_fuse("auto", x, 64, has_dropout=False)
    assert should_fuse("pallas_tpu", x, 64, has_dropout=False)
    monkeypatch.setattr(fused_layers, "target_platform", lambda: "tpu")
    monkeypatch.setattr(fused_layers, "unsupported_chip_reason", lambda platform: None)
    tiny = fused_layers.TokenKernelConfig(
        EPSILON, ChipMemory(vmem_bytes=2**10, cores=1), interpret=True
    )
    monkeypatch.setattr(fused_layers, "_kernel_config", lambda epsilon: tiny)
    assert not should_fuse("auto", x, 64, has_dropout=False)
    assert not should_fuse("auto", x.astype(jnp.float16), 64, has_dropout=False)
