"""Maps of tokens on the pixels of their clip."""

import numpy as np

from vswin_jax.inference.explanations.clip_maps import mass_inside, scale_to_clip, token_extent


def test_a_token_covers_its_patch_times_the_merging() -> None:
    assert token_extent((2, 4, 4), 0) == (2, 4, 4)
    assert token_extent((2, 4, 4), 3) == (2, 32, 32)


def test_tokens_that_reach_beyond_the_clip_are_cut() -> None:
    tokens = np.arange(8, dtype=np.float32).reshape(2, 2, 2)
    scaled = scale_to_clip(tokens, (2, 4, 4), (3, 6, 7), smooth=False)
    assert scaled.shape == (3, 6, 7)
    assert np.array_equal(scaled[1, 3], [0, 0, 0, 0, 1, 1, 1])
    assert np.array_equal(scaled[2, 5], [6, 6, 6, 6, 7, 7, 7])


def test_smooth_maps_are_linear_between_the_centres_of_tokens() -> None:
    tokens = np.zeros((2, 1, 2), np.float32)
    tokens[:, 0, 1] = 4, 8
    scaled = scale_to_clip(tokens, (2, 1, 2), (4, 1, 4), smooth=True)
    # Along the width the centres are at 1 and 3 pixels, so the pixels' centres 0.5 .. 3.5 are at
    # 0 (clamped), 1/4, 3/4 and 1 of the way; along time likewise.
    expected = np.outer([4, 5, 7, 8], [0, 0.25, 0.75, 1])
    np.testing.assert_allclose(scaled[:, 0], expected, atol=1e-6)


def test_mass_inside_a_mask() -> None:
    values = np.array([[[1.0, 2.0, 5.0]]], np.float32)
    assert mass_inside(values, np.array([[[True, False, True]]])) == 6 / 8
    assert np.isnan(mass_inside(0 * values, values > 0))
