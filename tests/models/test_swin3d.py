"""The model: parameter counts, shapes, dtypes, freezing, dropout and errors."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from random_params import random_params

from vswin_jax.errors import InputError
from vswin_jax.models import SwinTransformer3D, create_model, init_params, is_frozen
from vswin_jax.models.blocks import drop_path, sample_drop_path

SMALL = {"embed_dim": 8, "depths": (2, 2), "num_heads": (1, 2), "window_size": (2, 3, 3)}


def small(num_classes: int = 5, **overrides: object) -> SwinTransformer3D:
    return create_model("swin_tiny", num_classes, **{**SMALL, **overrides})


def outputs(
    model: SwinTransformer3D, params: object, clips: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Return logits and features, compiled together, which is faster than op by op."""

    @jax.jit
    def both(params: object, clips: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        variables = {"params": params}
        return model.apply(variables, clips), model.apply(variables, clips, method="features")

    return both(params, clips)


def random_clips(*extent: int) -> jax.Array:
    return jax.random.normal(jax.random.key(7), (2, *extent, 3))


@pytest.mark.parametrize(
    ("name", "classes", "window", "count"),
    [
        ("swin_tiny", 400, (8, 7, 7), 28_158_070),
        pytest.param("swin_small", 400, (8, 7, 7), 49_816_678, marks=pytest.mark.long),
        ("swin_base", 400, (8, 7, 7), 88_048_984),
        ("swin_base", 174, (16, 7, 7), 88_834_038),
        pytest.param("swin_large", 400, (8, 7, 7), 196_953_916, marks=pytest.mark.long),
        pytest.param("swin_large", 400, (8, 12, 12), 199_999_516, marks=pytest.mark.long),
    ],
)
def test_parameter_counts(
    name: str, classes: int, window: tuple[int, int, int], count: int
) -> None:
    model = create_model(name, classes, window_size=window)
    shapes = jax.eval_shape(lambda key: init_params(model, key), jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == count


@pytest.mark.parametrize(
    "extent",
    [
        (5, 30, 17),
        (1, 4, 4),
        pytest.param((4, 24, 24), marks=pytest.mark.long),
        pytest.param((3, 9, 50), marks=pytest.mark.long),
    ],
)
def test_any_extent_works_and_features_have_the_documented_shapes(
    extent: tuple[int, int, int],
) -> None:
    model = small()
    params = random_params(model)
    logits, maps = outputs(model, params, random_clips(*extent))
    assert logits.shape == (2, 5)
    assert logits.dtype == jnp.float32
    depth, height, width = (-(-n // p) for n, p in zip(extent, (2, 4, 4), strict=True))
    merged = (2, depth, -(-height // 2), -(-width // 2), 16)
    assert {name: value.shape for name, value in maps.items()} == {
        "patch_embed": (2, depth, height, width, 8),
        "stage0_before_merge": (2, depth, height, width, 8),
        "stage0_after_merge": merged,
        "stage1_before_merge": merged,
        "stage1_after_merge": merged,
        "final": merged,
    }


def test_without_a_head_the_output_is_pooled_features() -> None:
    model = small(0)
    params = random_params(model)
    assert "head" not in params
    pooled, maps = outputs(model, params, random_clips(4, 24, 24))
    np.testing.assert_allclose(pooled, maps["final"].mean((1, 2, 3)), atol=1e-6)


@pytest.mark.long
def test_bfloat16_is_the_compute_dtype_and_parameters_and_logits_are_float32() -> None:
    model = small(dtype="bfloat16")
    params = random_params(model)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    logits, maps = outputs(model, params, random_clips(4, 24, 24))
    assert {value.dtype for value in maps.values()} == {jnp.dtype("bfloat16")}
    assert logits.dtype == jnp.float32


@pytest.mark.long
def test_relative_position_matters_only_when_space_is_clamped() -> None:
    params = random_params(small())

    def logits(relative_position: str, *extent: int) -> jax.Array:
        swin = small(relative_position=relative_position)
        return jax.jit(swin.apply)({"params": params}, random_clips(*extent))

    np.testing.assert_array_equal(logits("reference", 4, 24, 24), logits("exact", 4, 24, 24))
    assert np.any(logits("reference", 4, 8, 24) != logits("exact", 4, 8, 24))


@pytest.mark.parametrize(
    "rate",
    [
        "drop_path_rate",
        pytest.param("drop_rate", marks=pytest.mark.long),
        pytest.param("attn_drop_rate", marks=pytest.mark.long),
        pytest.param("head_dropout_rate", marks=pytest.mark.long),
    ],
)
def test_each_dropout_acts_in_training_only(rate: str) -> None:
    rates = dict.fromkeys(
        ("drop_rate", "attn_drop_rate", "drop_path_rate", "head_dropout_rate"), 0.0
    )
    model = small(**{**rates, rate: 0.5})
    params = random_params(model)

    @partial(jax.jit, static_argnums=0)
    def logits(train: bool, seed: int) -> jax.Array:
        rngs = {"dropout": jax.random.key(seed)}
        return model.apply({"params": params}, random_clips(4, 24, 24), train, rngs=rngs)

    np.testing.assert_array_equal(logits(False, 0), logits(False, 1))
    np.testing.assert_array_equal(logits(True, 0), logits(True, 0))
    assert np.any(logits(True, 0) != logits(True, 1))


def test_stochastic_depth_drops_whole_clips_and_scales_the_others() -> None:
    factors = sample_drop_path(jax.random.key(0), (0.0, 0.5), 1000)
    assert factors.shape == (2, 2, 1000)
    assert np.all(factors[0] == 1)
    first, second = (
        np.asarray(drop_path(jnp.ones((1000, 2, 3)), branch_factors)).reshape(1000, -1)
        for branch_factors in factors[1]
    )
    for y in (first, second):
        assert np.all(y == y[:, :1])
        assert set(np.unique(y)) == {0.0, 2.0}
        assert abs(y.mean() - 1) < 0.1
    assert np.any(first != second)


@pytest.mark.parametrize(
    "frozen", [1, *(pytest.param(n, marks=pytest.mark.long) for n in (-1, 0, 2))]
)
def test_frozen_stages_get_no_gradient_and_no_dropout(frozen: int) -> None:
    model = small(frozen_stages=frozen, drop_path_rate=0.5, drop_rate=0.1)
    params = random_params(model)

    def loss(params: object) -> jax.Array:
        rngs = {"dropout": jax.random.key(1)}
        return (
            model.apply({"params": params}, random_clips(4, 24, 24), True, rngs=rngs) ** 2
        ).sum()

    for path, gradient in flatten_dict(jax.jit(jax.grad(loss))(params), sep="/").items():
        assert np.any(gradient != 0) == (not is_frozen(path, frozen)), path


def test_frozen_paths_are_the_patch_embedding_and_the_first_stages() -> None:
    assert not is_frozen("patch_embed/proj/kernel", -1)
    assert is_frozen("patch_embed/proj/kernel", 0)
    assert not is_frozen("layers_0/blocks_0/norm1/scale", 0)
    assert is_frozen("layers_0/downsample/norm/scale", 1)
    assert not is_frozen("layers_1/blocks_0/norm1/scale", 1)
    assert not is_frozen("norm/scale", 4)
    assert not is_frozen("head/kernel", 4)


@pytest.mark.long
def test_initialisation_is_that_of_the_reference() -> None:
    model = create_model("swin_tiny", 10, depths=(1, 1, 1, 1))
    flat = flatten_dict(init_params(model, jax.random.key(0)), sep="/")
    assert np.std(flat["layers_2/blocks_0/mlp/fc1/kernel"]) == pytest.approx(0.02, rel=0.02)
    assert np.std(flat["head/kernel"]) == pytest.approx(0.01, rel=0.05)
    bound = 1 / math.sqrt(3 * 2 * 4 * 4)
    kernel = flat["patch_embed/proj/kernel"]
    assert bound * 0.99 < np.abs(kernel).max() <= bound
    assert np.abs(flat["patch_embed/proj/bias"]).max() <= bound
    assert not np.any(flat["layers_0/blocks_0/attn/qkv/bias"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "swin_tinny"}, "Unknown model 'swin_tinny': did you mean 'swin_tiny'"),
        ({"window": (8, 7, 7)}, "Unknown model setting 'window': did you mean 'window_size'"),
        ({"dtype": "float16"}, "Unknown compute dtype 'float16'"),
        ({"window_size": (7, 7)}, "window_size is .7, 7.: give three positive numbers"),
        ({"num_heads": (5, 6, 12, 24)}, "Stage 0 has 96 channels, which 5 heads do not divide"),
        ({"depths": (2, 2)}, "differ in length"),
    ],
)
def test_wrong_settings_raise_a_clear_error(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        create_model(**arguments)


@pytest.mark.parametrize("setting", ["remat", "relative_position", "kernel_init"])
def test_unknown_choices_raise_a_clear_error(setting: str) -> None:
    with pytest.raises(InputError, match="'neither'"):
        init_params(small(**{setting: "neither"}), jax.random.key(0))
