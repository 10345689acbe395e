"""Parameters that are drawn together equal those that each initialiser draws on its own."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from vswin_jax.models import create_model, init_params
from vswin_jax.models.initial_draws import draw_together, lecun_normal, normal

TINY = {"num_classes": 3, "embed_dim": 8, "depths": (1, 1), "num_heads": (1, 2)}


Compare = Callable[[Any, Any], None]


@pytest.fixture
def assert_equal(pytestconfig: pytest.Config) -> Compare:
    """Compare two trees: bit for bit if programs are compiled as users have them.

    The cheaper programs of the tests combine the constants of a product in another order.
    """
    tolerance = 0 if pytestconfig.getoption("--optimized") else 1e-6

    def compare(actual: Any, expected: Any) -> None:
        close = partial(np.testing.assert_allclose, rtol=0, atol=tolerance)
        jax.tree.map(close, actual, expected)

    return compare


@pytest.mark.parametrize(
    "options", [{"kernel_init": "reference"}, {"kernel_init": "lecun", "remat": "block"}]
)
def test_parameters_equal_those_drawn_one_by_one(
    assert_equal: Compare, options: dict[str, Any]
) -> None:
    model, key = create_model(**TINY, **options), jax.random.key(5)
    params = init_params(model, key)
    assert_equal(params, init_params(model, key, together=False))
    kernel = params["layers_0"]["blocks_0"]["mlp"]["fc1"]["kernel"]
    expected_std = 0.02 if options["kernel_init"] == "reference" else np.sqrt(1 / 8)
    assert np.std(kernel) == pytest.approx(expected_std, rel=0.1)


@pytest.mark.parametrize(
    ("ours", "expected"),
    [
        (normal(0.3), nn.initializers.normal(0.3)),
        (lecun_normal(), nn.initializers.lecun_normal()),
    ],
    ids=["normal", "lecun_normal"],
)
def test_initializers_have_the_values_of_flax(
    assert_equal: Compare, ours: Any, expected: Any
) -> None:
    shapes = {"one row": (7, 9), "rows": (40, 100), "whole rows": (8, 2, 128), "narrow": (3000, 1)}

    def draw(init: Any, key: jax.Array) -> dict[str, jax.Array]:
        keys = jax.random.split(key, len(shapes))
        return {name: init(k, shape) for k, (name, shape) in zip(keys, shapes.items(), strict=True)}

    key = jax.random.key(1)
    together = jax.jit(lambda key: draw_together(lambda: draw(ours, key)))(key)
    assert_equal(together, jax.jit(lambda key: draw(expected, key))(key))


def test_other_keys_and_dtypes_are_drawn_one_by_one(assert_equal: Compare) -> None:
    for key in (jax.random.PRNGKey(1), jax.random.key(1, impl="rbg")):
        with_ours = jax.jit(lambda key: draw_together(lambda: {"w": normal(2.0)(key, (4, 4))}))(key)
        plain = jax.jit(lambda key: {"w": nn.initializers.normal(2.0)(key, (4, 4))})(key)
        assert_equal(with_ours, plain)
    half = jax.jit(lambda key: draw_together(lambda: normal(1.0)(key, (3,), jnp.bfloat16)))
    assert half(jax.random.key(0)).dtype == jnp.bfloat16


class Repeated(nn.Module):
    """Layers that Flax creates within a transformation."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        dense = nn.vmap(nn.Dense, variable_axes={"params": 0}, split_rngs={"params": True})
        return dense(3, kernel_init=normal(0.5))(x)


def test_draws_within_a_transformation_of_flax_are_kept(assert_equal: Compare) -> None:
    x = jnp.zeros((2, 4))
    together = jax.jit(lambda key: draw_together(lambda: Repeated().init(key, x)))
    plain = jax.jit(lambda key: Repeated().init(key, x))
    assert_equal(together(jax.random.key(0)), plain(jax.random.key(0)))
