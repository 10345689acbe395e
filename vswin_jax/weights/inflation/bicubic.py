"""Bicubic resizing as PyTorch does it, which `jax.image.resize` does not.

`torch.nn.functional.interpolate(mode="bicubic", align_corners=False)`: Keys' kernel with a = -0.75
(JAX has -0.5), pixel centres at halves, edges repeated, and no antialias when shrinking. It is what
`inflate_weights` of the reference applies to bias tables.
"""

import numpy as np

_A = -0.75


def resize_bicubic(x: np.ndarray, sizes: tuple[int, int]) -> np.ndarray:
    """`x` `[..., H, W]` as `[..., *sizes]`, in its own dtype; equal sizes give `x` itself."""
    height, width = x.shape[-2:]
    if (height, width) == tuple(sizes):
        return x
    rows, columns = _matrix(height, sizes[0]), _matrix(width, sizes[1])
    return (rows @ x.astype(np.float64) @ columns.T).astype(x.dtype)


def _matrix(before: int, after: int) -> np.ndarray:
    """`[after, before]`: the share of each old pixel in each new one; rows sum to 1."""
    if before == after:
        return np.eye(before)
    centres = (np.arange(after) + 0.5) * before / after - 0.5
    first = np.floor(centres).astype(int) - 1
    matrix = np.zeros((after, before))
    for tap in range(4):
        weights = _keys(np.abs(centres - (first + tap)))
        # Several taps may fall on the same edge pixel, so they are added up.
        np.add.at(matrix, (np.arange(after), np.clip(first + tap, 0, before - 1)), weights)
    return matrix


def _keys(distance: np.ndarray) -> np.ndarray:
    """Keys' cubic convolution kernel (IEEE ASSP 29, 1981, equation 4), for 0 to 2 pixels."""
    near = ((_A + 2) * distance - (_A + 3)) * distance**2 + 1
    far = ((_A * distance - 5 * _A) * distance + 8 * _A) * distance - 4 * _A
    return np.where(distance <= 1, near, far)
