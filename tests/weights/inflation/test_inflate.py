"""Inflation of a 2D Swin to 3D: a video of equal frames must have the image's feature maps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vswin_jax.errors import InputError
from vswin_jax.models import SwinTransformer3D, create_model, init_params
from vswin_jax.weights import from_state_dict, inflate, is_2d, to_state_dict
from vswin_jax.weights.inflation.bicubic import resize_bicubic

SMALL = {"embed_dim": 8, "depths": (2, 2), "num_heads": (1, 2)}
PATCH = "patch_embed.proj.weight"
TABLE = "layers.1.blocks.1.attn.relative_position_bias_table"
Sizes = tuple[int, int, int]
State = dict[str, np.ndarray]


def build(window: Sizes, patch: Sizes) -> SwinTransformer3D:
    return create_model("swin_tiny", 5, window_size=window, patch_size=patch, **SMALL)


@pytest.fixture(scope="module")
def image_state() -> State:
    """Return an image model's state, from a video model with patches and windows of one frame."""
    shapes = jax.eval_shape(lambda: init_params(build((1, 3, 3), (1, 4, 4)), jax.random.key(0)))
    rng = np.random.default_rng(0)
    state = {
        name: rng.normal(name.endswith("norm.weight"), 0.2, value.shape).astype(np.float32)
        for name, value in to_state_dict(
            jax.tree.map(lambda leaf: np.broadcast_to(0.0, leaf.shape), shapes)
        ).items()
    }
    state[PATCH] = state[PATCH][:, :, 0]
    return state


def final_map(state: State, window: Sizes, patch: Sizes, clip: jax.Array) -> np.ndarray:
    model, variables = build(window, patch), {"params": from_state_dict(state)}
    features = jax.jit(lambda x: model.apply(variables, x, method="features"))
    return np.asarray(features(clip)["final"])


@pytest.mark.parametrize(
    ("window", "patch", "methods"),
    [
        ((2, 3, 3), (2, 4, 4), {}),
        ((4, 3, 3), (4, 4, 4), {}),
        pytest.param((2, 3, 3), (2, 4, 4), {"patches": "center"}, marks=pytest.mark.long),
        pytest.param((4, 5, 5), (2, 4, 4), {}, marks=pytest.mark.long),
        pytest.param((2, 2, 2), (4, 4, 4), {"patches": "center"}, marks=pytest.mark.long),
    ],
)
def test_a_video_of_equal_frames_has_the_maps_of_the_image(
    image_state: State, window: Sizes, patch: Sizes, methods: dict[str, str]
) -> None:
    # The last stage is no smaller than a window, as the reference clamps videos and images
    # differently.
    side = max(24, 8 * window[1])
    still = jax.random.normal(jax.random.key(0), (1, 1, side, side, 3))
    still = jnp.tile(still, (1, 16, 1, 1, 1))
    video, _ = inflate(image_state, patch, window, **methods)
    video = final_map(video, window, patch, still)
    # The image model with its own tables, resized to the window if it differs.
    flat = (1, *window[1:])
    image = dict(image_state)
    for name in image:
        if name.endswith("bias_table"):
            squares = image[name].T.reshape(-1, 5, 5)
            sizes = tuple(2 * extent - 1 for extent in window[1:])
            image[name] = resize_bicubic(squares, sizes).reshape(len(squares), -1).T
    image[PATCH] = image[PATCH][:, :, None]
    image = final_map(image, flat, (1, 4, 4), still[:, :1])
    assert image.std() > 0.1
    np.testing.assert_allclose(video, np.broadcast_to(image, video.shape), atol=1e-5)


def test_the_center_methods_fill_one_slice(image_state: State) -> None:
    video, changes = inflate(image_state, (4, 4, 4), (3, 3, 3), patches="center", tables="center")
    kernel, table = video[PATCH], video[TABLE].reshape(5, 25, 2)
    np.testing.assert_array_equal(kernel[:, :, 2], image_state[PATCH])
    np.testing.assert_array_equal(table[2], image_state[TABLE])
    assert not kernel[:, :, [0, 1, 3]].any()
    assert not table[[0, 1, 3, 4]].any()
    assert changes[PATCH] == "put into frame 2 of 4, the others zero"
    assert changes[TABLE] == "put at offset 0 in time, zero at the other 4"


def test_changes_are_described_and_other_tensors_are_unchanged(image_state: State) -> None:
    video, changes = inflate(image_state, (2, 4, 4), (2, 4, 4))
    assert changes[PATCH] == "repeated over 2 frames and divided by 2"
    assert (
        changes[TABLE]
        == "resized by bicubic from window 3x3 to 4x4, repeated for 3 offsets in time"
    )
    assert len(changes) == 5
    assert all(video[name] is image_state[name] for name in image_state if name not in changes)
    assert is_2d(image_state)
    assert not is_2d(video)


def test_half_precision_is_inflated_in_float32(image_state: State) -> None:
    halves = {name: value.astype(np.float16) for name, value in image_state.items()}
    video, changes = inflate(halves, (3, 4, 4), (2, 3, 3))
    np.testing.assert_array_equal(video[PATCH][:, :, 1], halves[PATCH].astype(np.float32) / 3)
    assert all(video[name].dtype == np.float32 for name in changes)


def test_another_patch_size_keeps_the_embedding_of_a_constant_colour(image_state: State) -> None:
    constant = {**image_state, PATCH: np.ones((8, 3, 4, 4), np.float32)}
    video, changes = inflate(constant, (2, 8, 8), (2, 3, 3))
    assert video[PATCH].shape == (8, 3, 2, 8, 8)
    np.testing.assert_allclose(video[PATCH].sum((1, 2, 3, 4)), 3 * 4 * 4, rtol=1e-6)
    assert changes[PATCH].startswith("resized by bicubic from 4x4 to 8x8 pixels, repeated")


@pytest.mark.parametrize("shape", [(24, 2), (36, 2), (25,), (), (0, 2)])
def test_a_table_of_no_square_window_is_an_error(
    image_state: State, shape: tuple[int, ...]
) -> None:
    state = {**image_state, TABLE: np.zeros(shape, np.float32)}
    with pytest.raises(InputError, match="Expected the bias table of a square 2D window"):
        inflate(state, (2, 4, 4), (2, 3, 3))


def test_unknown_methods_and_empty_kernels_are_errors(image_state: State) -> None:
    with pytest.raises(InputError, match=r"Unknown way of inflating patches 'centre'.*'center'"):
        inflate(image_state, (2, 4, 4), (2, 3, 3), patches="centre")
    with pytest.raises(InputError, match="Unknown way of inflating tables 'copy'"):
        inflate(image_state, (2, 4, 4), (2, 3, 3), tables="copy")
    with pytest.raises(InputError, match="which is empty"):
        inflate({PATCH: np.zeros((8, 3, 0, 4))}, (2, 4, 4), (2, 3, 3))
