"""Token order, remat and kernels do not change the results of a stage."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_params import random_params
from two_stages import CLIPS, TWO_STAGES, random_clips

from vswin_jax.errors import InputError
from vswin_jax.models import SwinTransformer3D, create_model, init_params

pytestmark = pytest.mark.long


def model(**settings: Any) -> SwinTransformer3D:
    return create_model("swin_tiny", 5, **TWO_STAGES, drop_path_rate=0.3, **settings)


@pytest.fixture(scope="module")
def params() -> Any:
    return random_params(model())


@pytest.fixture(scope="module")
def plain_gradients(params: Any) -> Any:
    """Return the gradients of the first clip, in the token order of the reference."""
    return gradients(params, random_clips(CLIPS[0]), token_order="map", tokenwise="xla")


def maps(params: Any, clips: jax.Array, **settings: Any) -> dict[str, jax.Array]:
    """Return every feature map of a training call, with stochastic depth."""
    swin = model(**settings)
    return jax.jit(
        lambda p, x: swin.apply(
            {"params": p}, x, True, rngs={"dropout": jax.random.key(3)}, method="features"
        )
    )(params, clips)


def gradients(params: Any, clips: jax.Array, **settings: Any) -> Any:
    swin = model(**settings)

    def loss(params: Any) -> jax.Array:
        logits = swin.apply({"params": params}, clips, True, rngs={"dropout": jax.random.key(3)})
        return jnp.sum(logits**2)

    return jax.jit(jax.grad(loss))(params)


def assert_near(ours: Any, theirs: Any, tolerance: float) -> None:
    for (path, mine), other in zip(
        jax.tree.leaves_with_path(ours), jax.tree.leaves(theirs), strict=True
    ):
        scale = max(np.abs(other).max(), 1e-3)
        np.testing.assert_allclose(mine, other, atol=tolerance * scale, err_msg=str(path))


@pytest.mark.parametrize("extent", CLIPS)
def test_window_order_and_raster_order_agree(params: Any, extent: tuple[int, int, int]) -> None:
    clips = random_clips(extent)
    plain = maps(params, clips, token_order="map")
    ours = maps(params, clips, token_order="windows")
    assert ours.keys() == plain.keys()
    assert_near(ours, plain, 1e-6)


@pytest.mark.parametrize("remat", ["none", "mlp", "block"])
def test_gradients_agree(params: Any, plain_gradients: Any, remat: str) -> None:
    assert_near(gradients(params, random_clips(CLIPS[0]), remat=remat), plain_gradients, 2e-5)


def test_the_error_for_an_unknown_order_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match="map, windows"):
        init_params(model(token_order="tokens"), jax.random.key(0))


def test_the_token_kernels_agree_with_the_layers(params: Any, plain_gradients: Any) -> None:
    ours = gradients(params, random_clips(CLIPS[0]), tokenwise="pallas_tpu")
    assert_near(ours, plain_gradients, 2e-5)


def test_the_token_kernels_agree_with_the_layers_in_padded_windows(params: Any) -> None:
    clips = random_clips(CLIPS[2])
    plain, ours = (gradients(params, clips, tokenwise=name) for name in ("xla", "pallas_tpu"))
    assert_near(ours, plain, 2e-5)


def test_the_token_kernels_reject_dropout_and_unknown_names(params: Any) -> None:
    with pytest.raises(InputError, match="cannot be used: it has no dropout"):
        maps(params, random_clips(CLIPS[0]), tokenwise="pallas_tpu", drop_rate=0.1)
    with pytest.raises(InputError, match="auto, chunked, pallas_tpu, xla"):
        init_params(model(tokenwise="palas"), jax.random.key(0))
