"""Bicubic resizing against torch, for the sizes of windows and patches."""

import numpy as np
import pytest

from vswin_jax.weights.inflation.bicubic import resize_bicubic

torch = pytest.importorskip("torch", reason="the oracle needs torch")


@pytest.mark.parametrize("before", [(13, 13), (23, 23), (5, 9), (1, 1), (2, 3)])
@pytest.mark.parametrize("after", [(13, 13), (23, 23), (31, 15), (3, 4), (1, 1)])
def test_values_equal_those_of_torch(before: tuple[int, int], after: tuple[int, int]) -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, *before))
    expected = torch.nn.functional.interpolate(torch.from_numpy(x), size=after, mode="bicubic")
    np.testing.assert_allclose(resize_bicubic(x, after), expected.numpy(), atol=1e-6, rtol=0)
