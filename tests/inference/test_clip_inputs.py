"""Clips that a trained model accepts, and sentences for all others."""

import logging

import jax.numpy as jnp
import numpy as np
import pytest

from vswin_jax.errors import InputError
from vswin_jax.inference.clip_inputs import checked_clips, normalize

PIXELS = np.arange(2 * 4 * 8 * 8 * 3).reshape(2, 4, 8, 8, 3).astype(np.uint8)


def test_pixels_are_normalised_and_normalised_clips_stay() -> None:
    expected = (PIXELS - np.array([123.675, 116.28, 103.53])) / np.array([58.395, 57.12, 57.375])
    np.testing.assert_allclose(normalize(PIXELS), expected, atol=1e-6)
    assert np.array_equal(normalize(normalize(PIXELS)), normalize(PIXELS))


def test_accepted_arrays() -> None:
    assert checked_clips(PIXELS, check_values=True) is PIXELS
    normalized = np.asarray(normalize(PIXELS))
    assert checked_clips(normalized, check_values=True) is normalized
    assert checked_clips(normalized.astype(np.float64), check_values=True).dtype == np.float32
    assert checked_clips(jnp.zeros((1, 2, 4, 4, 3), jnp.bfloat16), check_values=True).shape[0] == 1
    assert checked_clips(normalized.tolist(), check_values=True).dtype == np.float32


@pytest.mark.parametrize(
    ("clips", "words"),
    [
        (PIXELS.astype(np.float32), "values from 0 to 255 came: give pixels from 0 to 255 as uint"),
        (PIXELS.astype(np.int32), r"int32 came: convert pixels with clips.astype\('uint8'\)"),
        (PIXELS > 0, "bool came"),
        (PIXELS[0], "add the axis of the batch"),
        (PIXELS[..., :1], "with 1 channels: give RGB"),
        (PIXELS.transpose(0, 4, 1, 2, 3), r"PyTorch's \[B, C, T, H, W\]"),
    ],
)
def test_other_arrays_get_a_sentence(clips: np.ndarray, words: str) -> None:
    with pytest.raises(InputError, match=words):
        checked_clips(clips, check_values=True)


def test_pixels_divided_by_255_get_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        checked_clips(np.zeros((1, 2, 4, 4, 3), np.float32), check_values=True)
        assert caplog.messages == []
        checked_clips(PIXELS / 255, check_values=True)
    (message,) = caplog.messages
    assert "divided by 255 and not normalised" in message
