"""Tests of `reorder`: one gather equals transposes and rolls, in values and gradients."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vswin_jax.attention import Size, TokenOrder, WindowGeometry, reorder, token_order
from vswin_jax.models.patches import grid_to_quads

GRIDS = [(4, 6, 9), (2, 6, 3), (4, 3, 3)]
WINDOW = (2, 3, 3)


@pytest.fixture(params=[False, True], ids=["any", "gpu"], autouse=True)
def platform(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_order, "targets_gpu", lambda: request.param)


def geometry(grid: Size, shift: Size) -> WindowGeometry:
    return WindowGeometry.create(grid, WINDOW, shift)


def random_grid(grid: Size) -> jax.Array:
    return jax.random.normal(jax.random.key(0), (2, *grid, 5))


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("shift", [(0, 0, 0), (1, 1, 1)])
def test_reorder_between_raster_and_window_order(grid: Size, shift: Size) -> None:
    windows, order = geometry(grid, shift), TokenOrder.window_order(geometry(grid, shift))
    x = random_grid(grid)
    cut = reorder(x, TokenOrder.raster_order(grid), order)
    np.testing.assert_array_equal(cut, windows.partition(x))
    np.testing.assert_array_equal(reorder(cut, order, TokenOrder.raster_order(grid)), x)


@pytest.mark.parametrize("grid", GRIDS)
def test_reorder_between_regular_and_shifted_windows(grid: Size) -> None:
    for first, second in itertools.permutations([(0, 0, 0), (1, 1, 1)]):
        source, target = geometry(grid, first), geometry(grid, second)
        orders = TokenOrder.window_order(source), TokenOrder.window_order(target)
        x = source.partition(random_grid(grid))

        def chain(
            x: jax.Array, source: WindowGeometry = source, target: WindowGeometry = target
        ) -> jax.Array:
            return target.partition(source.merge(x))

        moved, pullback = jax.vjp(lambda x, orders=orders: reorder(x, *orders), x)
        expected, chain_pullback = jax.vjp(chain, x)
        np.testing.assert_array_equal(moved, expected)
        gradient = jax.random.normal(jax.random.key(1), moved.shape)
        np.testing.assert_array_equal(pullback(gradient)[0], chain_pullback(gradient)[0])


def test_patch_merging_order_from_shifted_windows() -> None:
    grid = (2, 6, 6)
    shifted, x = geometry(grid, (1, 1, 1)), random_grid(grid)
    quads = reorder(
        shifted.partition(x), TokenOrder.window_order(shifted), TokenOrder.patch_merging_order(grid)
    )
    np.testing.assert_array_equal(quads, grid_to_quads(x))


def test_gradient_has_no_scatter_and_no_long_constant() -> None:
    grid = (4, 12, 12)
    orders = [TokenOrder.window_order(geometry(grid, s)) for s in ((0, 0, 0), (1, 1, 1))]

    def loss(x: jax.Array) -> jax.Array:
        return jnp.sum(jnp.sin(reorder(x, *orders)))

    x = jax.ShapeDtypeStruct((1, *orders[0].shape, 5), jnp.float32)
    traced = jax.jit(jax.grad(loss)).trace(x)
    program = traced.lower().as_text()
    assert program.count('"stablehlo.gather"(') == 2
    assert "scatter" not in program
    assert max(map(np.size, traced.jaxpr.consts), default=0) < 4 * 12 * 12


def test_one_window_over_the_grid_is_a_reshape() -> None:
    grid = (2, 3, 3)
    order = TokenOrder.window_order(geometry(grid, (1, 1, 1)))
    traced = jax.make_jaxpr(lambda x: reorder(x, TokenOrder.raster_order(grid), order))(
        random_grid(grid)
    )
    assert [str(equation.primitive) for equation in traced.eqns] == ["reshape"]
