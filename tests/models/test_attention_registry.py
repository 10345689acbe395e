import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.traverse_util import flatten_dict
from safetensors.numpy import save_file

from vswin_jax.errors import InputError
from vswin_jax.models import (
    AttentionLayer,
    create_model,
    init_params,
    register_attention,
    split_clips,
)
from vswin_jax.models.attention_registry import ATTENTION_LAYERS
from vswin_jax.sharding.mesh import make_mesh
from vswin_jax.weights import load_weights
from vswin_jax.weights.layouts.names import to_state_dict

SMALL = {"embed_dim": 8, "depths": (2,), "num_heads": (2,), "window_size": (2, 4, 4)}
CLIPS = np.random.default_rng(0).normal(size=(1, 2, 32, 32, 3)).astype(np.float32)


class Plain(AttentionLayer):
    """The paper's layer with a factor on the logits, in plain JAX and without our helpers."""

    start: float = 1.0

    @nn.compact
    def __call__(self, x: jax.Array, geometry: object, train: bool) -> jax.Array:
        query, key, value = jnp.moveaxis(self.qkv(x), 3, 0)
        table = self.bias_table()
        factor = self.param("factor", nn.initializers.constant(self.start), (self.num_heads,))
        scale = factor[:, None] * query.shape[-1] ** -0.5
        logits = jnp.einsum("bwqhd,bwkhd->bwhqk", query * scale, key)
        logits += geometry.bias(table, self.settings.relative_position)
        ids = geometry.segment_ids
        if ids is not None:
            logits += jnp.where(ids[:, None, :, None] != ids[:, None, None, :], -100.0, 0.0)
        out = jnp.einsum("bwhqk,bwkhd->bwqhd", jax.nn.softmax(logits), value)
        return self.project(out.reshape(x.shape), geometry, train)


class Tempered(AttentionLayer):
    """The same by the helpers."""

    start: float = 1.0

    @nn.compact
    def __call__(self, x: jax.Array, geometry: object, train: bool) -> jax.Array:
        query, key, value = jnp.moveaxis(self.qkv(x), 3, 0)
        factor = self.param("factor", nn.initializers.constant(self.start), (self.num_heads,))
        qkv = jnp.stack([query * factor[:, None], key, value], axis=3)
        return self.project(self.attend(qkv, self.bias_table(), geometry, train), geometry, train)


class Bare(AttentionLayer):
    """A layer without the paper's table."""

    @nn.compact
    def __call__(self, x: jax.Array, geometry: object, train: bool) -> jax.Array:
        return self.project(self.qkv(x)[..., 2, :, :].reshape(x.shape), geometry, train)


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    layers = {"plain": Plain, "tempered": Tempered, "bare": Bare}
    for name, layer in layers.items():
        register_attention(name)(layer)
    yield
    for name in layers:
        ATTENTION_LAYERS.remove(name)


def model(layer: str | None = None, **settings: object) -> nn.Module:
    return create_model("swin_tiny", 3, attention_layer=layer, **SMALL, **settings)


def with_factor(params: dict, factor: float) -> dict:
    """Return the parameters of the paper's layers with those of `Plain`."""
    blocks = {
        name: block | {"attn": block["attn"] | {"factor": jnp.full(2, factor)}}
        for name, block in params["layers_0"].items()
    }
    return params | {"layers_0": blocks}


@pytest.mark.parametrize("layer", ["plain", "tempered"])
def test_a_layer_with_the_papers_arithmetic_gives_the_papers_values(layer: str) -> None:
    reference = model()
    params = init_params(reference, jax.random.key(0))
    expected = jax.jit(reference.apply)({"params": params}, CLIPS)
    apply = jax.jit(model(layer).apply)
    actual = apply({"params": with_factor(params, 1.0)}, CLIPS)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)
    assert not np.allclose(apply({"params": with_factor(params, 9.0)}, CLIPS), expected)


def test_its_own_parameters_are_drawn_and_have_gradients() -> None:
    own = model("plain(start=2.5)")
    params = init_params(own, jax.random.key(0))
    paths = [path for path in flatten_dict(params, sep="/") if "attn" in path]
    assert {path.rpartition("attn/")[2] for path in paths} == {
        *("factor", "qkv/kernel", "qkv/bias", "proj/kernel", "proj/bias"),
        "relative_position_bias_table",
    }
    assert params["layers_0"]["blocks_0"]["attn"]["factor"].tolist() == [2.5, 2.5]
    gradient = jax.jit(jax.grad(lambda p: (own.apply({"params": p}, CLIPS) ** 2).sum()))(params)
    assert np.all(gradient["layers_0"]["blocks_1"]["attn"]["factor"] != 0)


@pytest.mark.long
@pytest.mark.parametrize(
    "settings",
    [{"token_order": "map"}, {"remat": "mlp"}, {"remat": "attention"}, {"tokenwise": "chunked"}],
    ids=str,
)
def test_other_ways_to_compute_give_the_same_values_and_gradients(
    settings: dict[str, object],
) -> None:
    params = with_factor(init_params(model(), jax.random.key(0)), 2.0)

    def gradient(module: nn.Module) -> dict:
        def loss(params: dict) -> jax.Array:
            return (module.apply({"params": params}, CLIPS, train=True, rngs=rngs) ** 2).sum()

        rngs = {"dropout": jax.random.key(1)}
        return jax.jit(jax.grad(loss))(params)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-6),
        gradient(model("tempered")),
        gradient(model("tempered", **settings)),
    )


def test_the_log_names_the_fast_path_that_is_not_used(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "vswin_jax"):
        own = model("tempered(start=3)", tokenwise="chunked")
        params = init_params(own, jax.random.key(0))
        for _ in range(2):
            jax.eval_shape(own.apply, {"params": params}, CLIPS)
    lines = [text for text in caplog.messages if "attention layer" in text]
    assert lines == [
        "processing windows in groups is not used: it computes the attention layer 'reference' "
        "alone, and this model has 'tempered(start=3)'"
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("plane", "Unknown attention layer 'plane': did you mean 'plain'?"),
        ("plain(begin=2)", "Unknown option of the attention layer 'plain' 'begin'"),
        ("plain(num_heads=2)", "Unknown option of the attention layer 'plain' 'num_heads'"),
        ("plain(start='no')", "Expected option 'start' of the attention layer 'plain' to be a"),
        ("plain, bare", "Expected one attention layer but"),
        ("", "Expected one attention layer but"),
    ],
)
def test_wrong_layers_are_refused_when_the_model_is_built(text: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        model(text)
    assert message in str(error.value)


def test_layers_of_another_form_are_refused_when_they_are_registered() -> None:
    class Lonely(nn.Module):
        start: float = 1.0

    for layer in (Lonely, lambda x: x):
        with pytest.raises(InputError, match=r"derive .* from vswin_jax.models.AttentionLayer"):
            register_attention("lonely")(layer)
    assert "lonely" not in ATTENTION_LAYERS


def test_devices_that_share_clips_are_refused() -> None:
    mesh = make_mesh(window=1)
    assert split_clips(model("plain"), mesh, "time") == model("plain")

    four = SimpleNamespace(shape={"window": 4})
    with pytest.raises(InputError, match=r"attention_layer to be 'reference' with mesh.window=4"):
        split_clips(model("plain"), four, "time")


def test_published_weights_load_and_the_own_parameters_start_fresh(tmp_path: Path) -> None:
    params = init_params(model(), jax.random.key(3))
    state = {name: np.ascontiguousarray(v) for name, v in to_state_dict(params).items()}
    save_file(state, tmp_path / "published.safetensors")
    loaded = load_weights(tmp_path / "published.safetensors", model("plain(start=0.5)"))["params"]
    attention = loaded["layers_0"]["blocks_1"]["attn"]
    assert attention["factor"].tolist() == [0.5, 0.5]
    expected = params["layers_0"]["blocks_1"]["attn"]
    np.testing.assert_array_equal(attention["qkv"]["kernel"], expected["qkv"]["kernel"])
    bare = load_weights(tmp_path / "published.safetensors", model("bare"))["params"]
    assert "relative_position_bias_table" not in bare["layers_0"]["blocks_0"]["attn"]
    with pytest.raises(InputError, match=r"it has no 'layers.0.blocks.0.attn.factor'"):
        load_weights(tmp_path / "published.safetensors", model("plain"), allow_fresh=())
