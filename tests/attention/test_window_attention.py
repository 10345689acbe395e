"""Every implementation against attention written out in NumPy, and against each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vswin_jax.attention import IMPLEMENTATIONS, WindowGeometry, chunked, window_attention, xla
from vswin_jax.attention.inputs import Given
from vswin_jax.errors import InputError

pytestmark = pytest.mark.usefixtures("quick_compiler")

GEOMETRY = WindowGeometry.create((4, 6, 6), (2, 3, 3), (1, 1, 1))
HEADS, DIM = 6, 4
# cuDNN is asked for its kernels, see test_cudnn.
HERE = [name for name in IMPLEMENTATIONS if name != "gpu"]


def inputs(dtype: jnp.dtype = jnp.float32) -> tuple[jax.Array, jax.Array]:
    keys = jax.random.split(jax.random.key(0))
    shape = (2, GEOMETRY.num_windows, GEOMETRY.tokens, 3, HEADS, DIM)
    bias = jax.random.normal(keys[1], (HEADS, GEOMETRY.tokens, GEOMETRY.tokens))
    return jax.random.normal(keys[0], shape, dtype), bias


def in_numpy(qkv: np.ndarray, bias: np.ndarray, ids: np.ndarray | None) -> np.ndarray:
    q, k, v = np.moveaxis(np.asarray(qkv, np.float64), 3, 0)
    logits = np.einsum("bwqhd,bwkhd->bwhqk", q * DIM**-0.5, k) + np.asarray(bias)
    if ids is not None:
        logits = logits - 100.0 * (ids[:, :, None] != ids[:, None, :])[None, :, None]
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("bwhqk,bwkhd->bwqhd", weights, v)


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("shifted", [False, True])
def test_values(name: str, shifted: bool) -> None:
    qkv, bias = inputs()
    ids = GEOMETRY.region_ids if shifted else None
    out = window_attention(qkv, bias, ids, implementation=name)
    np.testing.assert_allclose(out, in_numpy(qkv, bias, ids), atol=2e-6)


# At most so many window-heads: groups of three heads; one window; four windows, of two clips.
@pytest.mark.parametrize("window_heads", [4, 7, 24])
@pytest.mark.parametrize("shifted", [False, True])
def test_every_gradient_of_chunked_is_that_of_xla(
    shifted: bool, window_heads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunked, "CHUNK_HEADS", window_heads)
    qkv, bias = inputs()
    ids = GEOMETRY.region_ids if shifted else None
    weights = jax.random.normal(jax.random.key(2), qkv.shape[:3] + qkv.shape[4:])

    def gradients(name: str) -> tuple[jax.Array, jax.Array]:
        def loss(qkv: jax.Array, bias: jax.Array) -> jax.Array:
            return (window_attention(qkv, bias, ids, implementation=name) * weights).sum()

        return jax.jit(jax.grad(loss, (0, 1)))(qkv, bias)

    for ours, wanted in zip(gradients("chunked"), gradients("xla"), strict=True):
        np.testing.assert_allclose(ours, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", HERE)
def test_bfloat16_stays_near_and_keeps_its_dtype(name: str) -> None:
    qkv, bias = inputs(jnp.bfloat16)
    out = window_attention(qkv, bias, GEOMETRY.region_ids, implementation=name)
    assert out.dtype == jnp.bfloat16
    wanted = in_numpy(qkv.astype(jnp.float32), bias, GEOMETRY.region_ids)
    assert np.linalg.norm(out.astype(jnp.float32) - wanted) < 1e-2 * np.linalg.norm(wanted)


# The kernels refuse to drop weights, see test_pallas_tpu.
@pytest.mark.parametrize("name", ["xla", "chunked"])
def test_dropout_keeps_the_mean_and_depends_on_its_key(name: str) -> None:
    qkv, bias = inputs()

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


@pytest.mark.parametrize("shifted", [False, True])
def test_the_gradients_with_dropout_are_those_that_jax_takes(shifted: bool) -> None:
    qkv, bias = inputs()
    qkv, key = qkv[0], jax.random.key(5)
    regions = jnp.asarray(GEOMETRY.region_ids) if shifted else None
    weights = jax.random.normal(jax.random.key(2), qkv.shape[:2] + qkv.shape[3:])

    def attend(qkv: jax.Array, bias: jax.Array) -> tuple[jax.Array, jax.Array]:
        return xla.attend(Given(qkv, bias, regions, key, 0.3, 0.5))

    (out, total), pullback = jax.vjp(attend, qkv, bias)
    by_jax = pullback((weights, jnp.zeros_like(total)))
    ours = xla.gradients(Given(qkv, bias, regions, key, 0.3, 0.5), out, total, weights)
    for one, wanted in zip(ours, by_jax, strict=True):
        np.testing.assert_allclose(one, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("window_heads", [4, 12])
def test_chunks_drop_the_same_weights_in_both_passes(
    window_heads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gradient is the slope of what the forward pass gives."""
    monkeypatch.setattr(chunked, "CHUNK_HEADS", window_heads)
    qkv, bias = inputs()
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


def test_a_wrong_name_says_which_are_right() -> None:
    with pytest.raises(InputError, match="Unknown attention implementation 'chunk': did you mean"):
        window_attention(*inputs(), None, implementation="chunk")
