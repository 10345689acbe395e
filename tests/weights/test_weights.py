"""Names there and back, inflation, and what a user's file can be."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from vswin_jax.errors import InputError
from vswin_jax.models import SwinTransformer3D, create_model, init_params
from vswin_jax.weights import from_state_dict, load_weights, to_state_dict

pytestmark = pytest.mark.usefixtures("quick_compiler")

SMALL = {"embed_dim": 8, "depths": (2, 2), "num_heads": (1, 2), "window_size": (2, 3, 3)}
State = dict[str, np.ndarray]


def small(num_classes: int = 5, **overrides: object) -> SwinTransformer3D:
    return create_model("swin_tiny", num_classes, **{**SMALL, **overrides})


def a_state(model: SwinTransformer3D, seed: int = 3) -> State:
    params = init_params(model, jax.random.key(seed))
    return {k: np.ascontiguousarray(v) for k, v in to_state_dict(params).items()}


def a_2d_state() -> State:
    """An image model's: no time in the patches nor in the tables, and a head of its own."""
    state = a_state(small(1000))
    state["patch_embed.proj.weight"] = state["patch_embed.proj.weight"].sum(2)
    for name in state:
        if name.endswith("bias_table"):
            state[name] = np.ascontiguousarray(state[name][:25])
    return state


def reference_names() -> dict[str, tuple[int, ...]]:
    """Names and shapes of a released swin_tiny, from its fixture."""
    lines = (Path(__file__).parents[1] / "data" / "swin_t_state_dict.txt").read_text().splitlines()
    rows = (line.strip().split(" ", 1) for line in lines)
    return {
        name: tuple(map(int, shape[1 : shape.index(")")].replace(",", " ").split()))
        for name, shape in rows
    }


def test_names_and_shapes_are_those_of_a_released_checkpoint() -> None:
    model = create_model("swin_tiny", 400)
    params = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
    ours = to_state_dict(jax.tree.map(lambda leaf: np.broadcast_to(0.0, leaf.shape), params))
    released = {
        name.replace("cls_head.fc_cls.", "head.").removeprefix("backbone."): shape
        for name, shape in reference_names().items()
        if "index" not in name
    }
    assert len(released) == 173
    assert {name: value.shape for name, value in ours.items()} == released


def test_there_and_back_is_bit_exact() -> None:
    params = init_params(small(), jax.random.key(0))
    back = from_state_dict(to_state_dict(params))
    assert jax.tree.structure(back) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, back, params)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_a_released_layout_loads_from_a_file(tmp_path: Path, suffix: str) -> None:
    state = a_state(small())
    wrapped = {
        (
            "cls_head.fc_cls." + k.removeprefix("head.")
            if k.startswith("head")
            else "backbone." + k
        ): v
        for k, v in state.items()
    }
    wrapped["backbone.layers.0.blocks.0.attn.relative_position_index"] = np.zeros((18, 18), int)
    path = tmp_path / f"model{suffix}"
    np.savez(path, **wrapped) if suffix == ".npz" else save_file(wrapped, path)
    loaded = to_state_dict(load_weights(path, small())["params"])
    assert loaded.keys() == state.keys()
    for name in state:
        np.testing.assert_array_equal(loaded[name], state[name], err_msg=name)


def test_another_class_count_gets_a_fresh_head_and_the_rest(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = a_state(small(7))
    np.savez(tmp_path / "model.npz", **state)
    params = load_weights(tmp_path / "model.npz", small(5), seed=1)["params"]
    assert params["head"]["kernel"].shape == (16, 5)
    assert np.any(params["head"]["kernel"] != 0)
    np.testing.assert_array_equal(params["norm"]["scale"], state["norm.weight"])
    assert "no head of 5 classes" in caplog.text


@pytest.mark.parametrize("window", [(2, 3, 3), (4, 3, 3)])
@pytest.mark.parametrize("patch", [(2, 4, 4), (4, 4, 4)])
def test_an_inflated_image_model_sees_the_same_in_every_frame_of_a_still(
    tmp_path: Path, window: tuple[int, int, int], patch: tuple[int, int, int]
) -> None:
    np.savez(tmp_path / "image.npz", **a_2d_state())
    still = jnp.tile(jax.random.normal(jax.random.key(0), (1, 1, 24, 24, 3)), (1, 16, 1, 1, 1))

    def final(window: tuple[int, ...], patch: tuple[int, ...], frames: int) -> np.ndarray:
        model = small(window_size=window, patch_size=patch)
        variables = load_weights(tmp_path / "image.npz", model)
        features = jax.jit(lambda clips: model.apply(variables, clips, method="features"))
        return np.asarray(features(still[:, :frames])["final"])

    # One frame through patches and windows without time: the image model itself.
    image = final((1, 3, 3), (1, 4, 4), 1)
    video = final(window, patch, 16)
    np.testing.assert_allclose(video, np.broadcast_to(image, video.shape), atol=2e-5)


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"window_size": (2, 5, 5)}, "'layers_0/.*bias_table' has shape .75, 1. in it"),
        ({"depths": (2, 4)}, "it has no 'layers_1/blocks_2/"),
        ({"depths": (2, 1)}, "it has 'layers_1/blocks_1/.* which this model has not"),
        ({"embed_dim": 16}, ".* in it and .* in this model"),
    ],
)
def test_a_checkpoint_of_another_model_gets_a_sentence(
    tmp_path: Path, change: dict[str, object], difference: str
) -> None:
    np.savez(tmp_path / "model.npz", **a_state(small()))
    with pytest.raises(InputError, match=f"model.npz is of another model: {difference}"):
        load_weights(tmp_path / "model.npz", small(**change))


def test_an_image_model_of_other_windows_or_patches_gets_a_sentence(tmp_path: Path) -> None:
    np.savez(tmp_path / "image.npz", **a_2d_state())
    with pytest.raises(InputError, match="windows are 3x3 tokens but the model's are 4x4"):
        load_weights(tmp_path / "image.npz", small(window_size=(2, 4, 4)))
    with pytest.raises(InputError, match="patches are 4x4 pixels but the model's are 2x2"):
        load_weights(tmp_path / "image.npz", small(patch_size=(2, 2, 2)))


def test_files_that_cannot_be_read_get_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no checkpoint at"):
        load_weights(tmp_path / "none.npz", small())
    for name, message in (
        ("model.pth", "convert a PyTorch file .* safetensors"),
        ("model.npz", "not a readable npz file"),
        ("model.safetensors", "not a readable safetensors file"),
    ):
        (tmp_path / name).write_bytes(b"\x00" * 64)
        with pytest.raises(InputError, match=message):
            load_weights(tmp_path / name, small())
