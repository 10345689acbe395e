"""Tests of the bias built without a gather, against the reference's index into its table."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vswin_jax.attention import WindowGeometry, table_rows


def reference_index(window: tuple[int, int, int]) -> np.ndarray:
    """Return the reference's `relative_position_index`, `[N, N]`, query minus key."""
    axes = np.meshgrid(*map(np.arange, window), indexing="ij")
    coords = np.stack(axes).reshape(3, -1)
    d, h, w = coords[:, :, None] - coords[:, None, :]
    wd, wh, ww = window
    return ((d + wd - 1) * (2 * wh - 1) + h + wh - 1) * (2 * ww - 1) + w + ww - 1


def random_table(window: tuple[int, int, int], heads: int = 2) -> jax.Array:
    return jax.random.normal(jax.random.key(0), (table_rows(window), heads))


def test_the_index_of_the_released_window_has_the_published_corners() -> None:
    index = reference_index((8, 7, 7))
    assert (index[0, 0], index[0, -1], index[-1, 0]) == (1267, 0, 2534)
    assert table_rows((8, 7, 7)) == 2535


@pytest.mark.parametrize(
    "grid",
    [(8, 9, 9), (2, 9, 9), (8, 2, 9), (8, 9, 1), (3, 2, 2), (1, 1, 1)],
    ids=["whole", "time", "height", "width", "all", "one"],
)
def test_reference_bias_slices_the_index_of_the_full_window(grid: tuple[int, int, int]) -> None:
    window = (4, 3, 3)
    geometry = WindowGeometry.create(grid, window, (0, 0, 0))
    tokens = geometry.tokens
    index = reference_index(window)[:tokens, :tokens]
    table = random_table(window)
    bias = geometry.bias(table, "reference")
    np.testing.assert_array_equal(bias, np.asarray(table)[index].transpose(2, 0, 1))


@pytest.mark.parametrize("grid", [(8, 9, 9), (8, 2, 9), (3, 2, 2)])
def test_exact_bias_uses_the_true_offsets_of_a_clamped_window(grid: tuple[int, int, int]) -> None:
    window = (4, 3, 3)
    geometry = WindowGeometry.create(grid, window, (0, 0, 0))
    table = random_table(window)
    offsets = np.asarray(table).reshape(7, 5, 5, 2)
    coords = np.stack(np.meshgrid(*map(np.arange, geometry.window), indexing="ij")).reshape(3, -1)
    d, h, w = coords[:, :, None] - coords[:, None, :]
    bias = geometry.bias(table, "exact")
    np.testing.assert_array_equal(bias, offsets[d + 3, h + 2, w + 2].transpose(2, 0, 1))


def test_reference_and_exact_bias_differ_only_if_space_is_clamped() -> None:
    table = random_table((4, 3, 3))

    def both(grid: tuple[int, int, int]) -> list[jax.Array]:
        geometry = WindowGeometry.create(grid, (4, 3, 3), (0, 0, 0))
        return [geometry.bias(table, mode) for mode in ("reference", "exact")]

    np.testing.assert_array_equal(*both((2, 9, 9)))
    reference, exact = both((8, 2, 9))
    assert np.any(reference != exact)


def test_gradient_equals_that_of_a_gather_and_has_no_scatter() -> None:
    window = (4, 3, 3)
    geometry = WindowGeometry.create((8, 9, 9), window, (0, 0, 0))
    table = random_table(window)
    weights = jax.random.normal(jax.random.key(1), (2, 36, 36))
    index = reference_index(window)

    def ours(table: jax.Array) -> jax.Array:
        return (geometry.bias(table, "reference") * weights).sum()

    def gathered(table: jax.Array) -> jax.Array:
        return (jnp.moveaxis(table[index], -1, 0) * weights).sum()

    gradient = jax.jit(jax.grad(ours))
    np.testing.assert_allclose(gradient(table), jax.grad(gathered)(table), rtol=1e-4, atol=1e-5)
    assert "scatter" not in gradient.lower(table).as_text()
