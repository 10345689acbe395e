"""Attention maps: their weights beside a softmax by hand, their places, their refusals."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from vswin_jax.attention import WindowGeometry
from vswin_jax.errors import InputError
from vswin_jax.inference.explanations.attention_maps import (
    AttentionReader,
    token_at,
    window_tokens,
)
from vswin_jax.inference.explanations.grad_cam import GradCam
from vswin_jax.models import AttentionLayer, create_model, init_params, register_attention
from vswin_jax.models.attention_registry import ATTENTION_LAYERS

SIZES = {"embed_dim": 8, "depths": (2,), "num_heads": (2,), "window_size": (2, 4, 4)}
MODEL = create_model("swin_tiny", num_classes=3, kernel_init="lecun", **SIZES)
# 3 x 7 x 8 tokens: time and height need padding, and three axes are shifted.
CLIP = np.random.default_rng(0).normal(size=(6, 28, 32, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def params() -> dict:
    params = init_params(MODEL, jax.random.key(0))
    for block in ("blocks_0", "blocks_1"):
        own = params["layers_0"][block]["attn"]
        shape = own["relative_position_bias_table"].shape
        own["relative_position_bias_table"] = jax.random.normal(jax.random.key(2), shape)
    return params


def softmax_by_hand(params: dict, tokens: np.ndarray, geometry: WindowGeometry) -> np.ndarray:
    """Compute softmax(q k^T / sqrt(d) + bias + mask) of all windows, `[windows, heads, N, N]`.

    `tokens` are those that the layer gets, `[D, H, W, C]`.
    """
    own = params["layers_0"]["blocks_1"]["attn"]
    windows = np.asarray(jax.jit(geometry.partition)(tokens[None]))[0]
    qkv = windows @ np.asarray(own["qkv"]["kernel"]) + np.asarray(own["qkv"]["bias"])
    query, key, _ = qkv.reshape(*windows.shape[:2], 3, 2, 4).transpose(2, 0, 3, 1, 4)
    # The offset of a query and a key (time, height, width) is a row of the table.
    places = np.stack(np.unravel_index(np.arange(32), (2, 4, 4)), -1)
    offset = places[:, None] - places[None] + np.array([1, 3, 3])
    rows = np.ravel_multi_index(tuple(np.moveaxis(offset, -1, 0)), (3, 7, 7))
    bias = np.asarray(own["relative_position_bias_table"])[rows].transpose(2, 0, 1)
    ids = geometry.segment_ids
    mask = np.where(ids[:, None, :, None] == ids[:, None, None, :], 0, -np.inf)
    logits = query @ key.swapaxes(-1, -2) / np.sqrt(4) + bias + mask
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def test_weights_are_those_of_a_softmax_by_hand_in_shifted_windows(params: dict) -> None:
    # The layer gets the normalised tokens of the first block's output.
    one = MODEL.clone(depths=(1,))
    features = jax.jit(functools.partial(one.apply, method="features"))
    tokens = features({"params": params}, CLIP[None])["stage0_before_merge"][0]
    centred = np.asarray(tokens - tokens.mean(-1, keepdims=True))
    normalised = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)

    reader = AttentionReader(MODEL, stage=0, block=1)
    geometry = reader.geometry(params, CLIP)
    assert (geometry.grid, geometry.shift) == ((3, 7, 8), (1, 2, 2))
    expected = softmax_by_hand(params, normalised, geometry)
    logits = jax.jit(MODEL.apply)({"params": params}, CLIP[None])[0]
    masked = 0
    for query in ((0.5, 0.5, 0.5), (0.99, 0.99, 0.99), (0.0, 0.9, 0.1)):
        window = reader(params, CLIP, query)
        index = np.argwhere((window_tokens(geometry) == window.tokens).all(-1)).item()
        np.testing.assert_allclose(window.weights, expected[index], atol=2e-5)
        np.testing.assert_allclose(window.weights.sum(-1), 1, atol=1e-5)
        ids = geometry.segment_ids[index]
        assert not window.weights[:, ids[:, None] != ids].any()
        masked += (ids[:, None] != ids).sum()
        np.testing.assert_allclose(window.logits, logits, atol=1e-5)
    assert masked > 0


def test_the_map_has_the_weights_at_the_windows_place(params: dict) -> None:
    window = AttentionReader(MODEL, stage=0, block=0)(params, CLIP, (0.0, 0.7, 0.3))
    # 0.7 * 7 = 4.9 and 0.3 * 8 = 2.4: the token (0, 4, 2), in the window of rows 4 to 6, padded by
    # one row, and columns 0 to 3, over the first two frames.
    assert window.tokens[window.query] == (0 * 7 + 4) * 8 + 2
    place = window.place
    assert {tuple(map(int, index)) for index in np.argwhere(place)} == {
        (time, row, column) for time in range(2) for row in range(4, 7) for column in range(4)
    }
    assert np.argwhere(place == 2).tolist() == [[0, 4, 2]]
    second, mean = window.token_map(head=1), window.token_map()
    assert not second[place == 0].any()
    assert not mean[place == 0].any()
    row = window.weights[:, window.query].reshape(2, 2, 4, 4)[:, :, :3]
    np.testing.assert_array_equal(second[:2, 4:, :4], row[1])
    np.testing.assert_allclose(mean[:2, 4:, :4], row.mean(0), rtol=1e-6)


def test_a_clip_within_one_window_has_no_mask(params: dict) -> None:
    window = AttentionReader(MODEL, stage=0)(params, CLIP[:2, :12, :8], (0.5, 0.5, 0.5))
    assert window.grid == (1, 3, 2)
    assert window.weights.shape == (2, 6, 6)
    assert window.weights.min() > 0


def test_wrong_places_and_layers_get_a_sentence() -> None:
    with pytest.raises(InputError, match=r"from 0 to 1, such as 0\.5,0\.5,0\.5, but 0\.5,2,0"):
        token_at((0.5, 2, 0), (2, 4, 4))
    assert token_at((1, 1, 1), (2, 4, 4)) == 31
    with pytest.raises(InputError, match="block to be from 0 to 1, since stage 0 has 2, but 7"):
        AttentionReader(MODEL, stage=0, block=7)


def test_a_layer_of_ones_own_has_no_known_weights_but_a_grad_cam(params: dict) -> None:
    @register_attention("uniform")
    class Uniform(AttentionLayer):
        """The mean of the window."""

        @nn.compact
        def __call__(self, x: jax.Array, geometry: object, train: bool) -> jax.Array:
            out = jnp.broadcast_to(x.mean(2, keepdims=True), x.shape)
            return self.project(out, geometry, train)

    try:
        model = MODEL.clone(attention_layer="uniform")
        with pytest.raises(InputError, match="model has 'uniform', whose weights are unknown"):
            AttentionReader(model, stage=0)
        own = init_params(model, jax.random.key(0))
        own = {**own, "head": {**own["head"], "kernel": jnp.eye(8, 3)}}
        result = GradCam(model, stage=0)(own, CLIP[None], np.array([1]))
        assert result.maps.shape == (1, 3, 7, 8)
        assert np.asarray(result.maps).max() > 0
    finally:
        ATTENTION_LAYERS.remove("uniform")
