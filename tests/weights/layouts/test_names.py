"""Conversion of canonical names to the Flax tree and back."""

from pathlib import Path

import jax
import numpy as np

from vswin_jax.models import create_model, init_params
from vswin_jax.weights import from_state_dict, to_state_dict

SMALL = {"embed_dim": 8, "depths": (2, 2), "num_heads": (1, 2), "window_size": (2, 3, 3)}


def reference_names() -> dict[str, tuple[int, ...]]:
    """Read the names and shapes of a released swin_tiny from a fixture."""
    lines = (Path(__file__).parents[2] / "data" / "swin_t_state_dict.txt").read_text().splitlines()
    rows = (line.strip().split(" ", 1) for line in lines)
    return {
        name: tuple(map(int, shape[1 : shape.index(")")].replace(",", " ").split()))
        for name, shape in rows
    }


def test_names_and_shapes_are_those_of_a_released_checkpoint() -> None:
    model = create_model("swin_tiny", 400)
    params = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
    exported = to_state_dict(jax.tree.map(lambda leaf: np.broadcast_to(0.0, leaf.shape), params))
    released = {
        name.replace("cls_head.fc_cls.", "head.").removeprefix("backbone."): shape
        for name, shape in reference_names().items()
        if "index" not in name
    }
    assert len(released) == 173
    assert {name: value.shape for name, value in exported.items()} == released


def test_a_round_trip_is_bit_exact() -> None:
    model = create_model("swin_tiny", 5, **SMALL)
    shapes = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape, np.float32), shapes)
    back = from_state_dict(to_state_dict(params))
    assert jax.tree.structure(back) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, back, params)
