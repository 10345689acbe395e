"""One movement of tokens equals the chain of transposes and rolls, forward and backward."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vswin_jax.attention import Size, TokenOrder, WindowGeometry, reorder, token_order
from vswin_jax.models.patches import map_to_quads

GRIDS = [(4, 6, 9), (2, 6, 3), (4, 3, 3)]
WINDOW = (2, 3, 3)


@pytest.fixture(params=[False, True], ids=["any", "gpu"], autouse=True)
def platform(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_order, "targets_gpu", lambda: request.param)


def geometry(grid: Size, shift: Size) -> WindowGeometry:
    return WindowGeometry.create(grid, WINDOW, shift)


def a_map(grid: Size) -> jax.Array:
    return jax.random.normal(jax.random.key(0), (2, *grid, 5))


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("shift", [(0, 0, 0), (1, 1, 1)])
def test_a_map_and_its_windows(grid: Size, shift: Size) -> None:
    windows, order = geometry(grid, shift), TokenOrder.of_windows(geometry(grid, shift))
    x = a_map(grid)
    cut = reorder(x, TokenOrder.of_map(grid), order)
    np.testing.assert_array_equal(cut, windows.partition(x))
    np.testing.assert_array_equal(reorder(cut, order, TokenOrder.of_map(grid)), x)


@pytest.mark.parametrize("grid", GRIDS)
def test_from_regular_to_shifted_windows_and_back(grid: Size) -> None:
    for here, there in itertools.permutations([(0, 0, 0), (1, 1, 1)]):
        source, target = geometry(grid, here), geometry(grid, there)
        orders = TokenOrder.of_windows(source), TokenOrder.of_windows(target)
        x = source.partition(a_map(grid))

        def chain(
            x: jax.Array, source: WindowGeometry = source, target: WindowGeometry = target
        ) -> jax.Array:
            return target.partition(source.merge(x))

        moved, pull = jax.vjp(lambda x, orders=orders: reorder(x, *orders), x)
        expected, pull_chain = jax.vjp(chain, x)
        np.testing.assert_array_equal(moved, expected)
        gradient = jax.random.normal(jax.random.key(1), moved.shape)
        np.testing.assert_array_equal(pull(gradient)[0], pull_chain(gradient)[0])


def test_four_neighbours_read_from_shifted_windows() -> None:
    grid = (2, 6, 6)
    shifted, x = geometry(grid, (1, 1, 1)), a_map(grid)
    quads = reorder(shifted.partition(x), TokenOrder.of_windows(shifted), TokenOrder.of_quads(grid))
    np.testing.assert_array_equal(quads, map_to_quads(x))


def test_the_way_back_has_no_scatter_and_no_long_constant() -> None:
    grid = (4, 12, 12)
    orders = [TokenOrder.of_windows(geometry(grid, s)) for s in ((0, 0, 0), (1, 1, 1))]

    def energy(x: jax.Array) -> jax.Array:
        return jnp.sum(jnp.sin(reorder(x, *orders)))

    x = jax.ShapeDtypeStruct((1, *orders[0].shape, 5), jnp.float32)
    traced = jax.jit(jax.grad(energy)).trace(x)
    program = traced.lower().as_text()
    assert program.count('"stablehlo.gather"(') == 2
    assert "scatter" not in program
    assert max(map(np.size, traced.jaxpr.consts), default=0) < 4 * 12 * 12


def test_one_window_over_the_grid_is_the_map_and_moves_nothing() -> None:
    grid = (2, 3, 3)
    order = TokenOrder.of_windows(geometry(grid, (1, 1, 1)))
    traced = jax.make_jaxpr(lambda x: reorder(x, TokenOrder.of_map(grid), order))(a_map(grid))
    assert [str(equation.primitive) for equation in traced.eqns] == ["reshape"]
