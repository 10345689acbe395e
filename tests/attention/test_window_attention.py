"""Tests of every implementation against attention in NumPy, and against each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vswin_jax.attention import IMPLEMENTATIONS, WindowGeometry, chunked, window_attention, xla
from vswin_jax.attention.inputs import AttentionInputs
from vswin_jax.errors import InputError

GEOMETRY = WindowGeometry.create((4, 6, 6), (2, 3, 3), (1, 1, 1))
HEADS, DIM = 6, 4
# Without cuDNN, which needs a GPU: see test_gpu.
ON_CPU = [name for name in IMPLEMENTATIONS if name != "gpu"]


def random_inputs(dtype: jnp.dtype = jnp.float32) -> tuple[jax.Array, jax.Array]:
    keys = jax.random.split(jax.random.key(0))
    shape = (2, GEOMETRY.num_windows, GEOMETRY.tokens, 3, HEADS, DIM)
    bias = jax.random.normal(keys[1], (HEADS, GEOMETRY.tokens, GEOMETRY.tokens))
    return jax.random.normal(keys[0], shape, dtype), bias


def numpy_attention(qkv: np.ndarray, bias: np.ndarray, ids: np.ndarray | None) -> np.ndarray:
    q, k, v = np.moveaxis(np.asarray(qkv, np.float64), 3, 0)
    logits = np.einsum("bwqhd,bwkhd->bwhqk", q * DIM**-0.5, k) + np.asarray(bias)
    if ids is not None:
        logits = logits - 100.0 * (ids[:, :, None] != ids[:, None, :])[None, :, None]
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("bwhqk,bwkhd->bwqhd", weights, v)


@pytest.mark.parametrize("name", ON_CPU)
@pytest.mark.parametrize("shifted", [False, True])
def test_values_equal_numpy(name: str, shifted: bool) -> None:
    qkv, bias = random_inputs()
    ids = GEOMETRY.segment_ids if shifted else None
    out = window_attention(qkv, bias, ids, implementation=name)
    np.testing.assert_allclose(out, numpy_attention(qkv, bias, ids), atol=2e-6)


# Limits of window-heads in a chunk: groups of three heads; one window; four windows of two clips.
@pytest.mark.parametrize("window_heads", [4, 7, 24])
@pytest.mark.parametrize("shifted", [False, True])
def test_every_gradient_of_chunked_equals_xla(
    shifted: bool, window_heads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunked, "CHUNK_HEADS", window_heads)
    qkv, bias = random_inputs()
    ids = GEOMETRY.segment_ids if shifted else None
    weights = jax.random.normal(jax.random.key(2), qkv.shape[:3] + qkv.shape[4:])

    def gradients(name: str) -> tuple[jax.Array, jax.Array]:
        def loss(qkv: jax.Array, bias: jax.Array) -> jax.Array:
            return (window_attention(qkv, bias, ids, implementation=name) * weights).sum()

        return jax.jit(jax.grad(loss, (0, 1)))(qkv, bias)

    for ours, expected in zip(gradients("chunked"), gradients("xla"), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ON_CPU)
def test_bfloat16_is_near_float32_and_keeps_its_dtype(name: str) -> None:
    qkv, bias = random_inputs(jnp.bfloat16)
    out = window_attention(qkv, bias, GEOMETRY.segment_ids, implementation=name)
    assert out.dtype == jnp.bfloat16
    expected = numpy_attention(qkv.astype(jnp.float32), bias, GEOMETRY.segment_ids)
    assert np.linalg.norm(out.astype(jnp.float32) - expected) < 1e-2 * np.linalg.norm(expected)


# The TPU kernels have no dropout: see test_attention_tpu.
@pytest.mark.long
@pytest.mark.parametrize("name", ["xla", "chunked"])
def test_dropout_keeps_the_mean_and_depends_on_its_key(name: str) -> None:
    qkv, bias = random_inputs()

    @jax.jit
    def dropped(seed: int) -> jax.Array:
        return window_attention(
            qkv,
            bias,
            None,
            implementation=name,
            dropout_key=jax.random.key(seed),
            dropout_rate=0.3,
        )

    assert np.all(dropped(0) == dropped(0))
    assert np.any(dropped(0) != dropped(1))
    mean = np.mean([dropped(seed) for seed in range(200)], axis=0)
    assert np.abs(mean - window_attention(qkv, bias, None)).mean() < 0.05


@pytest.mark.long
@pytest.mark.parametrize("shifted", [False, True])
def test_gradients_with_dropout_equal_automatic_differentiation(shifted: bool) -> None:
    qkv, bias = random_inputs()
    qkv, key = qkv[0], jax.random.key(5)
    ids = jnp.asarray(GEOMETRY.segment_ids) if shifted else None
    weights = jax.random.normal(jax.random.key(2), qkv.shape[:2] + qkv.shape[3:])

    def attend(qkv: jax.Array, bias: jax.Array) -> tuple[jax.Array, jax.Array]:
        return xla.attend(AttentionInputs(qkv, bias, ids, key, dropout_rate=0.3, scale=0.5))

    (out, total), pullback = jax.vjp(attend, qkv, bias)
    by_jax = pullback((weights, jnp.zeros_like(total)))
    inputs = AttentionInputs(qkv, bias, ids, key, dropout_rate=0.3, scale=0.5)
    ours = xla.attend_grad(inputs, out, total, weights)
    for gradient, expected in zip(ours, by_jax, strict=True):
        np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.long
@pytest.mark.parametrize("window_heads", [4, 12])
def test_chunks_drop_the_same_weights_in_both_passes(
    window_heads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compare the gradient with finite differences of the forward pass."""
    monkeypatch.setattr(chunked, "CHUNK_HEADS", window_heads)
    qkv, bias = random_inputs()
    weights = jax.random.normal(jax.random.key(2), qkv.shape[:3] + qkv.shape[4:])
    step = 1e-2 * jax.random.normal(jax.random.key(3), qkv.shape)

    @jax.jit
    def loss(qkv: jax.Array) -> jax.Array:
        dropout = {"dropout_key": jax.random.key(5), "dropout_rate": 0.5}
        return (
            window_attention(qkv, bias, None, implementation="chunked", **dropout) * weights
        ).sum()

    slope = (jax.jit(jax.grad(loss))(qkv) * step).sum()
    np.testing.assert_allclose(slope, (loss(qkv + step) - loss(qkv - step)) / 2, rtol=1e-2)


def test_error_for_an_unknown_name_suggests_known_names() -> None:
    with pytest.raises(InputError, match="Unknown attention implementation 'chunk': did you mean"):
        window_attention(*random_inputs(), None, implementation="chunk")
