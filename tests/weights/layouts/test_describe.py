"""Architectures inferred from the shapes of tensors."""

import jax
import numpy as np
import pytest

from vswin_jax.errors import InputError
from vswin_jax.models import create_model, init_params
from vswin_jax.weights.layouts.describe import count_window_tokens, describe, infer_window
from vswin_jax.weights.layouts.names import to_state_dict

State = dict[str, np.ndarray]
SMALL = {"embed_dim": 8, "depths": (2, 1), "num_heads": (1, 2), "window_size": (2, 3, 3)}


def empty_state(name: str = "swin_tiny", num_classes: int = 400, **overrides: object) -> State:
    """Return a canonical state whose tensors have the right shapes but take no memory."""
    model = create_model(name, num_classes, **overrides)
    params = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
    empty = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), params)
    return to_state_dict(empty)


def empty_2d_state(window: int = 3, **overrides: object) -> State:
    state = empty_state(**{**SMALL, "window_size": (1, window, window), **overrides})
    state["patch_embed.proj.weight"] = state["patch_embed.proj.weight"][:, :, 0]
    return state


@pytest.mark.parametrize(
    ("variant", "window", "classes"),
    [
        ("swin_tiny", (8, 7, 7), 400),
        ("swin_small", (8, 7, 7), 0),
        ("swin_base", (16, 7, 7), 174),
        ("swin_large", (8, 12, 12), 600),
    ],
)
def test_released_models_are_inferred_from_their_shapes(
    variant: str, window: tuple[int, ...], classes: int
) -> None:
    found = describe(empty_state(variant, classes, window_size=window))
    assert (found.variant, found.window, found.num_classes) == (variant, window, classes)
    assert (found.patch_size, found.mlp_ratio, found.is_2d) == ((2, 4, 4), 4.0, False)
    assert found.qkv_bias
    assert found.patch_norm


@pytest.mark.long
@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"qkv_bias": False},
        {"patch_norm": False},
        {"mlp_ratio": 2.5},
        {"patch_size": (4, 2, 3)},
        {"window_size": (3, 4, 4)},
        {"depths": (1,), "num_heads": (4,)},
    ],
)
def test_the_described_model_has_the_same_tensors(overrides: dict[str, object]) -> None:
    state = empty_state(num_classes=3, **{**SMALL, **overrides})
    found = describe(state)
    assert found.variant is None
    again = empty_state(**found.model_overrides())
    assert {k: v.shape for k, v in again.items()} == {k: v.shape for k, v in state.items()}


def test_an_image_model_gets_temporal_sizes_in_model_overrides() -> None:
    found = describe(empty_2d_state())
    assert found.is_2d
    assert (found.patch_size, found.window) == ((4, 4), (3, 3))
    overrides = found.model_overrides()
    assert (overrides["patch_size"], overrides["window_size"]) == ((2, 4, 4), (8, 3, 3))
    itself = found.model_overrides(patch_frames=1, window_frames=1)
    assert (itself["patch_size"], itself["window_size"]) == ((1, 4, 4), (1, 3, 3))


def test_the_window_of_an_image_model_is_the_largest_one() -> None:
    state = empty_2d_state(window=4)
    table = "layers.1.blocks.0.attn.relative_position_bias_table"
    state[table] = state[table][:25]
    assert describe(state).window == (4, 4)


@pytest.mark.parametrize(
    "window",
    # Published windows, the last of which has as many rows as (592, 2, 2) and (4, 20, 20); then
    # windows that are the only fit, one of them one token wide.
    [
        (8, 7, 7),
        (16, 7, 7),
        (8, 12, 12),
        (2, 7, 7),
        (4, 7, 7),
        (32, 7, 7),
        (1, 7, 7),
        (4, 4, 4),
        (3, 1, 1),
    ],
)
def test_windows_are_inferred_from_rows(window: tuple[int, int, int]) -> None:
    rows = int(np.prod([2 * extent - 1 for extent in window]))
    assert infer_window(rows) == window
    assert infer_window(rows, int(np.prod(window))) == window


def test_the_index_decides_between_windows() -> None:
    # 81 rows are 9 * 3 * 3, and 1 * 9 * 9.
    with pytest.raises(InputError, match=r"81 rows, which fit \(5, 2, 2\) or \(1, 5, 5\): give"):
        infer_window(81)
    assert infer_window(81, 20) == (5, 2, 2)
    assert infer_window(81, 25) == (1, 5, 5)
    state = empty_state(**{**SMALL, "window_size": (5, 2, 2)})
    assert describe(state, window_tokens=20).window == (5, 2, 2)
    assert describe(state, window_size=(1, 5, 5)).window == (1, 5, 5)
    # The token count has priority over the published window (8, 7, 7).
    assert infer_window(15 * 169, 1268) == (1268, 1, 1)


@pytest.mark.parametrize("shape", [(18, 18), (324,)])
def test_tokens_are_counted_in_flat_and_square_indices(shape: tuple[int, ...]) -> None:
    name = "backbone.layers.0.blocks.0.attn.relative_position_index"
    assert count_window_tokens({name: np.zeros(shape, np.int64), "x": np.zeros(9)}) == 18
    assert count_window_tokens({"x": np.zeros(9)}) is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: infer_window(50), "50 rows, which fit no window of equal height and width: give"),
        (lambda: infer_window(2535, 7), "2535 rows, which fit no window"),
        (lambda: infer_window(0), "0 rows, which fit no window"),
        (lambda: describe(empty_state(**SMALL), window_size=(2, 4, 4)), r"not those .*\(2, 4, 4\)"),
        (lambda: describe(empty_2d_state(), window_size=(1, 3, 3)), r"not those .*\(1, 3, 3\)"),
    ],
)
def test_impossible_windows_are_errors(call: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


TABLE = "layers.1.blocks.0.attn.relative_position_bias_table"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("patch_embed.proj.weight", None, "proj.weight should have 4 or 5 axes, but it is missing"),
        ("patch_embed.proj.weight", np.zeros((8, 3)), r"4 or 5 axes, but its shape is \(8, 3\)"),
        (TABLE, None, "table should have 2 axes, but it is missing"),
        (TABLE, np.zeros((0, 2)), r"table should have 2 axes, but its shape is \(0, 2\)"),
        (
            "layers.3.blocks.0.norm1.weight",
            np.zeros(8),
            "has no layers.2.blocks.0: give a complete",
        ),
        (
            "layers.1.blocks.2.norm1.weight",
            np.zeros(8),
            "has no layers.1.blocks.1: give a complete",
        ),
    ],
)
def test_incomplete_states_are_errors(name: str, value: np.ndarray | None, message: str) -> None:
    state = {**empty_state(**SMALL), name: value}
    with pytest.raises(InputError, match=message):
        describe({k: v for k, v in state.items() if v is not None})


def test_a_state_without_blocks_is_an_error() -> None:
    kernel = {"patch_embed.proj.weight": np.zeros((8, 3, 2, 4, 4))}
    with pytest.raises(InputError, match=r"has no layers.0.blocks.0: give a complete"):
        describe(kernel)


def test_an_image_models_table_must_be_square() -> None:
    state = empty_2d_state()
    for name in state:
        if name.endswith("bias_table"):
            state[name] = state[name][:16]
    with pytest.raises(InputError, match="16 rows, which fit no square window of an image model"):
        describe(state)
