"""Bicubic resizing with the results of PyTorch, which differ from those of `jax.image.resize`.

The reference is `torch.nn.functional.interpolate(mode="bicubic", align_corners=False)`: Keys'
kernel with a = -0.75 (JAX has -0.5), pixel centres at halves, edges repeated, and no antialiasing
when shrinking. `inflate_weights` of the original code applies it to bias tables.
"""

import numpy as np

_A = -0.75


def resize_bicubic(x: np.ndarray, sizes: tuple[int, int]) -> np.ndarray:
    """Resize `x` `[..., H, W]` to `[..., *sizes]` in its dtype; equal sizes return `x` itself."""
    height, width = x.shape[-2:]
    if (height, width) == tuple(sizes):
        return x
    rows = _resize_matrix(height, sizes[0])
    columns = _resize_matrix(width, sizes[1])
    return (rows @ x.astype(np.float64) @ columns.T).astype(x.dtype)


def _resize_matrix(before: int, after: int) -> np.ndarray:
    """Return `[after, before]`, the weight of each old pixel in each new one; rows sum to 1."""
    if before == after:
        return np.eye(before)
    centres = (np.arange(after) + 0.5) * before / after - 0.5
    first = np.floor(centres).astype(int) - 1
    matrix = np.zeros((after, before))
    for tap in range(4):
        weights = _keys_kernel(np.abs(centres - (first + tap)))
        # Several taps can fall on the same edge pixel, so their weights are added.
        np.add.at(matrix, (np.arange(after), np.clip(first + tap, 0, before - 1)), weights)
    return matrix


def _keys_kernel(distance: np.ndarray) -> np.ndarray:
    """Evaluate Keys' cubic convolution kernel (IEEE ASSP 29, 1981, equation 4) on `[0, 2]`."""
    near = ((_A + 2) * distance - (_A + 3)) * distance**2 + 1
    far = ((_A * distance - 5 * _A) * distance + 8 * _A) * distance - 4 * _A
    return np.where(distance <= 1, near, far)
