"""Bicubic resizing against values computed by torch 2.13 (test_bicubic_oracle.py runs torch)."""

import numpy as np
import pytest

from vswin_jax.weights.inflation.bicubic import resize_bicubic

# torch.nn.functional.interpolate(X[None, None], size, mode="bicubic") in float64.
X = np.array(
    [
        [0.13, -0.13, 0.64],
        [0.1, -0.54, 0.36],
        [1.3, 0.95, -0.7],
        [-1.27, -0.62, 0.04],
        [-2.33, -0.22, -1.25],
    ]
)
GROWN = np.array(
    [
        [1.5430666e-01, -7.4862538e-03, -8.8662544e-02, 3.5859448e-01, 7.4089216e-01],
        [9.1880000e-02, -1.6824519e-01, -3.4185186e-01, 2.1264148e-01, 7.0218962e-01],
        [8.3665192e-02, -2.9446179e-01, -6.0042526e-01, 8.7796771e-04, 5.5689966e-01],
        [8.9445100e-01, 6.1562000e-01, 1.9903976e-01, -8.6910834e-02, -2.3124168e-01],
        [1.3335999e00, 1.2830000e00, 9.4999999e-01, -8.4999995e-02, -8.5839999e-01],
        [5.4150870e-02, 1.2366391e-01, 1.4849108e-01, -8.2052126e-02, -2.7547599e-01],
        [-1.6182418e00, -1.2541165e00, -6.8661180e-01, -2.2346267e-01, 3.3215143e-02],
        [-2.3028429e00, -1.4505614e00, -4.3314815e-01, -5.3653482e-01, -8.3826222e-01],
        [-2.6535637e00, -1.4746500e00, -1.7967078e-01, -7.5179153e-01, -1.4952993e00],
    ]
)
SHRUNK = np.array([[-0.1922499, 0.2565196], [-1.5534147, -0.2540109]])


@pytest.mark.parametrize("expected", [GROWN, SHRUNK], ids=["grown", "shrunk"])
def test_values_equal_those_of_torch(expected: np.ndarray) -> None:
    np.testing.assert_allclose(resize_bicubic(X, expected.shape), expected, atol=1e-6, rtol=0)


def test_leading_axes_are_independent() -> None:
    several = np.stack([X, -2 * X])[:, None].astype(np.float32)
    resized = resize_bicubic(several, (9, 5))
    assert (resized.shape, resized.dtype) == ((2, 1, 9, 5), np.float32)
    np.testing.assert_allclose(resized[1, 0], -2 * GROWN, atol=2e-6, rtol=0)


def test_equal_sizes_and_constants_are_unchanged() -> None:
    assert resize_bicubic(X, (5, 3)) is X
    np.testing.assert_allclose(resize_bicubic(np.full((3, 3), 7.0), (8, 2)), 7.0, rtol=1e-14)
