"""Grad-CAM: its values, its classes, and the places that it finds."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vswin_jax.errors import InputError
from vswin_jax.inference.explanations.grad_cam import PREDICTED, GradCam, weigh_features
from vswin_jax.models import SwinTransformer3D, create_model, init_params

SIZES = {"embed_dim": 8, "depths": (2, 2), "num_heads": (2, 2), "window_size": (2, 4, 4)}
MODEL = create_model("swin_tiny", num_classes=3, kernel_init="lecun", **SIZES)
# 20 pixels are 5 tokens, which neither windows nor the merging divide: both pad.
CLIPS = np.random.default_rng(0).normal(size=(2, 4, 20, 16, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def params() -> dict:
    params = init_params(MODEL, jax.random.key(0))
    # The head starts near 0, where gradients are as small as rounding errors.
    head = jax.random.normal(jax.random.key(1), params["head"]["kernel"].shape)
    return {**params, "head": {**params["head"], "kernel": head}}


def upper_part(params: dict, features: jax.Array) -> jax.Array:
    """Compute the logits of the last stage's maps: norm, mean and head, by hand."""
    mean, variance = features.mean(-1, keepdims=True), features.var(-1, keepdims=True)
    norm, head = params["norm"], params["head"]
    x = (features - mean) / jnp.sqrt(variance + 1e-5) * norm["scale"] + norm["bias"]
    return x.mean((1, 2, 3)) @ head["kernel"] + head["bias"]


def test_agrees_with_a_computation_by_hand(params: dict) -> None:
    apply = jax.jit(functools.partial(MODEL.apply, method="features"))
    features = apply({"params": params}, CLIPS)["stage1_before_merge"]
    gradient_of = jax.jit(jax.grad(lambda x, chosen: upper_part(params, x)[0, chosen]))
    logits = jax.jit(MODEL.apply)({"params": params}, CLIPS)
    explain = GradCam(MODEL, stage=1)
    for classes in ([2, 0], [1, 1]):
        result = explain(params, CLIPS, np.array(classes))
        for clip, chosen in enumerate(classes):
            own = features[clip : clip + 1]
            weights = np.asarray(gradient_of(own, chosen))[0].mean((0, 1, 2))
            expected = np.maximum(np.asarray(own)[0] @ weights, 0)
            assert expected.max() > 0
            np.testing.assert_allclose(result.maps[clip], expected, rtol=1e-3, atol=1e-6)
        np.testing.assert_allclose(result.logits, logits, atol=1e-5)


def test_the_predicted_class_is_the_default_and_stages_have_their_grids(params: dict) -> None:
    explain = GradCam(MODEL, stage=0)
    predicted = explain(params, CLIPS, np.array([PREDICTED, PREDICTED]))
    assert predicted.maps.shape == (2, 2, 5, 4)
    classes = np.asarray(predicted.logits).argmax(-1)
    assert np.array_equal(predicted.classes, classes)
    named = explain(params, CLIPS, classes)
    assert np.array_equal(named.maps, predicted.maps)
    other = explain(params, CLIPS, (classes + 1) % 3)
    assert not np.allclose(other.maps, predicted.maps)


def test_maps_are_zero_where_features_are_zero_and_never_negative() -> None:
    features = np.random.default_rng(0).normal(size=(1, 2, 4, 4, 5)).astype(np.float32)
    features[:, :, :2] = 0
    gradients = np.random.default_rng(1).normal(size=features.shape).astype(np.float32)
    maps = np.asarray(weigh_features(features, gradients))
    assert not maps[:, :, :2].any()
    assert maps[:, :, 2:].max() > 0
    assert maps.min() == 0
    # One channel of gradient 1 at a quarter of the 32 places: its weight is 1/4.
    gradients[:], gradients[0, 0, :2, :, 3] = 0, 1
    expected = np.maximum(features[0, ..., 3] / 4, 0)
    np.testing.assert_allclose(weigh_features(features, gradients)[0], expected, rtol=1e-6)


def test_the_model_keeps_its_program_and_its_settings(params: dict) -> None:
    """An explanation leaves no interceptor behind, and works for all orders and remat policies."""
    before = jax.jit(MODEL.apply).lower({"params": params}, CLIPS).as_text()
    one = GradCam(MODEL, stage=1)(params, CLIPS, np.array([0, 1]))
    assert jax.jit(MODEL.apply).lower({"params": params}, CLIPS).as_text() == before
    remat: SwinTransformer3D = MODEL.clone(remat="block", tokenwise="chunked")
    other = GradCam(remat, stage=1)(params, CLIPS, np.array([0, 1]))
    assert np.array_equal(one.maps, other.maps)


def test_a_stage_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError, match="stage to be from 0 to 1, since the model has 2, but 4"):
        GradCam(MODEL, stage=4)
