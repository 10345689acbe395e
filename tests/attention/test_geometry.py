"""Tests of windows and segments against the reference's definitions, written out in NumPy."""

import itertools

import numpy as np
import pytest

from vswin_jax.attention import WindowGeometry

CASES = [
    ((8, 14, 14), (4, 7, 7), (2, 3, 3)),
    ((9, 13, 15), (4, 7, 7), (2, 3, 3)),  # padded on every axis
    ((2, 14, 14), (4, 7, 7), (2, 3, 3)),  # clamped in time
    ((8, 5, 14), (4, 7, 7), (2, 3, 3)),  # clamped in height
    ((8, 14, 14), (4, 7, 7), (0, 0, 0)),
]


def reference_mask(
    size: tuple[int, ...], window: tuple[int, ...], shift: tuple[int, ...]
) -> np.ndarray:
    """Return the reference's `compute_mask`: three slices per axis, later ones overwrite."""
    ids = np.zeros(size, int)
    slices = [
        (slice(-w), slice(-w, -s), slice(-s, None)) for w, s in zip(window, shift, strict=True)
    ]
    for count, index in enumerate(itertools.product(*slices)):
        ids[index] = count
    counts = [n // w for n, w in zip(size, window, strict=True)]
    ids = ids.reshape(counts[0], window[0], counts[1], window[1], counts[2], window[2])
    ids = ids.transpose(0, 2, 4, 1, 3, 5).reshape(np.prod(counts), np.prod(window))
    return ids[:, :, None] != ids[:, None, :]


@pytest.mark.parametrize(("grid", "window", "shift"), CASES)
def test_segment_ids_mask_the_same_pairs_as_the_reference(
    grid: tuple[int, ...], window: tuple[int, ...], shift: tuple[int, ...]
) -> None:
    geometry = WindowGeometry.create(grid, window, shift)
    expected = reference_mask(geometry.padded_grid, geometry.window, geometry.shift)
    ids = geometry.segment_ids
    if ids is None:
        assert not geometry.is_shifted
        assert not expected.any()
    else:
        assert ids.dtype == np.int8
        assert ids.shape == (geometry.num_windows, geometry.tokens)
        np.testing.assert_array_equal(ids[:, :, None] != ids[:, None, :], expected)


def test_clamping_an_axis_removes_the_shift_of_that_axis_only() -> None:
    # Stage 3 of swin_tiny at 32x224x224 (`get_window_size` of the reference).
    geometry = WindowGeometry.create((16, 7, 7), (8, 7, 7), (4, 3, 3))
    assert geometry.window == (8, 7, 7)
    assert geometry.shift == (4, 0, 0)
    assert geometry.padded_grid == (16, 7, 7)
    assert geometry.num_windows == 2


@pytest.mark.parametrize(("grid", "window", "shift"), CASES)
def test_merge_undoes_partition(
    grid: tuple[int, ...], window: tuple[int, ...], shift: tuple[int, ...]
) -> None:
    geometry = WindowGeometry.create(grid, window, shift)
    x = np.random.default_rng(0).standard_normal((2, *grid, 3), dtype=np.float32)
    windows = geometry.partition(x)
    assert windows.shape == (2, geometry.num_windows, geometry.tokens, 3)
    np.testing.assert_array_equal(geometry.merge(windows), x)


def test_windows_and_tokens_are_in_raster_order_after_the_shift() -> None:
    geometry = WindowGeometry.create((4, 4, 4), (2, 2, 2), (1, 1, 1))
    index = np.arange(64).reshape(1, 4, 4, 4, 1)
    windows = np.asarray(geometry.partition(index))[0, :, :, 0]
    rolled = np.roll(index[0, ..., 0], (-1, -1, -1), (0, 1, 2))
    np.testing.assert_array_equal(windows[0], rolled[:2, :2, :2].ravel())
    np.testing.assert_array_equal(windows[1], rolled[:2, :2, 2:].ravel())
    np.testing.assert_array_equal(windows[4], rolled[2:, :2, :2].ravel())
