"""Resizing of the windows and patches of a 3D Swin."""

import jax
import numpy as np
import pytest

from vswin_jax.errors import InputError
from vswin_jax.models import create_model, init_params
from vswin_jax.weights import from_state_dict, inflate, resize, to_state_dict

SMALL = {"embed_dim": 8, "depths": (2, 2), "num_heads": (1, 2)}
PATCH = "patch_embed.proj.weight"
TABLE = "layers.0.blocks.0.attn.relative_position_bias_table"
Sizes = tuple[int, int, int]
State = dict[str, np.ndarray]


def random_state(window: Sizes, patch: Sizes) -> State:
    model = create_model("swin_tiny", 5, window_size=window, patch_size=patch, **SMALL)
    shapes = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
    state = to_state_dict(jax.tree.map(lambda leaf: np.broadcast_to(0.0, leaf.shape), shapes))
    rng = np.random.default_rng(1)
    return {n: rng.normal(0, 0.2, value.shape).astype(np.float32) for n, value in state.items()}


def final_map(state: State, window: Sizes, patch: Sizes, clip: np.ndarray) -> np.ndarray:
    model = create_model("swin_tiny", 5, window_size=window, patch_size=patch, **SMALL)
    variables = {"params": from_state_dict(state)}
    features = jax.jit(lambda x: model.apply(variables, x, method="features"))
    return np.asarray(features(clip)["final"])


def tables(slices: list[float]) -> State:
    """Return a kernel and the table of a window (d, 1, 1): one number per temporal offset."""
    table = np.array(slices, np.float32)[:, None]
    return {TABLE: table, PATCH: np.ones((1, 1, 2, 1, 1), np.float32)}


def test_equal_sizes_are_the_identity() -> None:
    state = random_state((2, 3, 3), (2, 4, 4))
    same, changes = resize(state, (2, 4, 4), (2, 3, 3), from_window=(2, 3, 3))
    assert changes == {}
    assert all(same[name] is state[name] for name in state)


@pytest.mark.parametrize("window", [(16, 7, 7), (8, 12, 12), (16, 12, 12), (2, 7, 7)])
@pytest.mark.parametrize("patch", [(2, 4, 4), (4, 4, 4), (1, 4, 4)])
def test_resizing_an_inflated_model_equals_inflation_to_that_size(
    window: Sizes, patch: Sizes
) -> None:
    rng = np.random.default_rng(0)
    image = {
        PATCH: rng.standard_normal((6, 3, 4, 4), np.float32),
        TABLE: rng.standard_normal((169, 3), np.float32),
    }
    video, _ = inflate(image, (2, 4, 4), (8, 7, 7))
    resized, _ = resize(video, patch, window, from_window=(8, 7, 7))
    expected, _ = inflate(image, patch, window)
    for name in expected:
        np.testing.assert_allclose(
            resized[name], expected[name], rtol=1e-6, atol=1e-7, err_msg=name
        )
    if window[1] == 7:
        np.testing.assert_array_equal(resized[TABLE], expected[TABLE])


@pytest.mark.long
def test_clips_within_the_old_window_have_the_same_maps_in_a_longer_window() -> None:
    state = random_state((2, 3, 3), (2, 4, 4))
    clip = np.random.default_rng(0).standard_normal((1, 4, 24, 24, 3), np.float32)
    before = final_map(state, (2, 3, 3), (2, 4, 4), clip)
    longer, changes = resize(state, (2, 4, 4), (5, 3, 3), from_window=(2, 3, 3))
    np.testing.assert_allclose(final_map(longer, (5, 3, 3), (2, 4, 4), clip), before, atol=1e-5)
    assert set(changes.values()) == {"offsets in time from 2 tokens to 5"}
    back, _ = resize(longer, (2, 4, 4), (2, 3, 3), from_window=(5, 3, 3))
    np.testing.assert_array_equal(back[TABLE], state[TABLE])


@pytest.mark.parametrize(
    ("before", "window", "frames", "after"),
    [
        ([1, 2, 4], 3, 2, [1, 1, 2, 4, 4]),  # the farthest bias is repeated
        ([1, 2, 3, 4, 5], 2, 2, [2, 3, 4]),  # the far biases are dropped
        ([1, 2, 4], 2, 1, [1.5, 2, 3]),  # half as many frames per token: half the offset
        ([1, 2, 3, 5, 8], 2, 4, [1, 3, 8]),  # twice as many frames: twice the offset
    ],
)
def test_an_offset_in_frames_keeps_its_bias(
    before: list[float], window: int, frames: int, after: list[float]
) -> None:
    old = ((len(before) + 1) // 2, 1, 1)
    resized, changes = resize(tables(before), (frames, 1, 1), (window, 1, 1), from_window=old)
    np.testing.assert_array_equal(resized[TABLE][:, 0], np.array(after, np.float32))
    assert "offsets in time" in changes[TABLE]


@pytest.mark.parametrize(
    ("before", "frames", "after"),
    [
        ([6, 2], 4, [3, 3, 1, 1]),
        ([4, 3, 2, 1], 2, [7, 3]),
        # The first of three frames has 2/3 of the old first frame, the second 1/3 of each.
        ([6, 3], 3, [4, 3, 2]),
        ([6, 3], 1, [9]),
    ],
)
def test_patch_weights_are_spread_over_time(
    before: list[float], frames: int, after: list[float]
) -> None:
    kernel = np.array(before, np.float32).reshape(1, 1, -1, 1, 1)
    resized, changes = resize({PATCH: kernel}, (frames, 1, 1), (2, 3, 3), from_window=(2, 3, 3))
    np.testing.assert_allclose(resized[PATCH].ravel(), after, rtol=1e-6)
    assert changes[PATCH] == f"spread from {len(before)} to {frames} frames"


def test_space_and_time_are_resized_together() -> None:
    state = random_state((2, 3, 3), (2, 4, 4))
    resized, changes = resize(state, (4, 8, 8), (3, 4, 5), from_window=(2, 3, 3))
    assert resized[TABLE].shape == (5 * 7 * 9, 1)
    assert resized[PATCH].shape == (8, 3, 4, 8, 8)
    assert changes[TABLE] == (
        "resized by bicubic from window 3x3 to 4x5, offsets in time from 2 tokens to 3 of 2 times "
        "the frames"
    )
    assert changes[PATCH] == "resized by bicubic from 4x4 to 8x8 pixels, spread from 2 to 4 frames"


def test_tables_and_kernels_of_other_shapes_are_errors() -> None:
    state = random_state((2, 3, 3), (2, 4, 4))
    with pytest.raises(InputError, match=r"window \(3, 3, 3\), of 125 rows, but .* \(75, 1\)"):
        resize(state, (2, 4, 4), (2, 3, 3), from_window=(3, 3, 3))
    for kernel, came in ((np.ones((8, 3)), r"\(8, 3\)"), (np.ones((8, 3, 2, 0, 4)), "0, 4")):
        with pytest.raises(InputError, match=f"Expected a patch kernel .* one of shape .*{came}"):
            resize({PATCH: kernel}, (2, 4, 4), (2, 3, 3), from_window=(2, 3, 3))
    with pytest.raises(InputError, match="but none came"):
        resize({}, (2, 4, 4), (2, 3, 3), from_window=(2, 3, 3))
