"""Loading of every kind of source into a model, and the errors."""

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from vswin_jax.checkpoint import Checkpoints
from vswin_jax.errors import InputError
from vswin_jax.models import SwinTransformer3D, create_model, init_params
from vswin_jax.weights import (
    LoadReport,
    from_state_dict,
    load_weights,
    load_with_report,
    to_state_dict,
    zoo,
)

SMALL = {"embed_dim": 8, "depths": (2, 2), "num_heads": (1, 2), "window_size": (2, 3, 3)}
State = dict[str, np.ndarray]


def small(num_classes: int = 5, **overrides: object) -> SwinTransformer3D:
    return create_model("swin_tiny", num_classes, **{**SMALL, **overrides})


def random_state(model: SwinTransformer3D) -> State:
    rng = np.random.default_rng(3)
    shapes = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
    params = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape, np.float32), shapes)
    return {k: np.ascontiguousarray(v) for k, v in to_state_dict(params).items()}


def load(
    source: str | Path, model: SwinTransformer3D, **options: object
) -> tuple[dict[str, Any], LoadReport]:
    variables, report = load_with_report(source, model, **options)
    return variables["params"], report


def random_2d_state() -> State:
    """Return an image model's state: no time axis in patches and tables, and a head of 1000."""
    state = random_state(small(1000))
    state["patch_embed.proj.weight"] = state["patch_embed.proj.weight"].sum(2)
    for name in state:
        if name.endswith("bias_table"):
            state[name] = np.ascontiguousarray(state[name][:25])
    return state


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_a_released_layout_loads_from_a_file(tmp_path: Path, suffix: str) -> None:
    state = random_state(small())
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


@pytest.mark.long
def test_another_class_count_gives_a_fresh_head_and_loads_the_rest(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = random_state(small(7))
    np.savez(tmp_path / "model.npz", **state)
    params = load_weights(tmp_path / "model.npz", small(5), seed=1)["params"]
    expected = init_params(small(5), jax.random.key(1))["head"]
    jax.tree.map(np.testing.assert_array_equal, params["head"], expected)
    np.testing.assert_array_equal(params["norm"]["scale"], state["norm.weight"])
    assert "no head of 5 classes" in caplog.text


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"depths": (2, 4)}, "it has no 'layers.1.blocks.2.*, which this model has .* differ;"),
        ({"depths": (2, 1)}, "it has 'layers.1.blocks.1.* which this model does not have"),
        (
            {"embed_dim": 16},
            "'layers.0.blocks.0.attn.proj.bias' has shape .8,. in it and .16,. in this",
        ),
        (
            {"patch_norm": False},
            "it has 'patch_embed.norm.bias' of shape .8,., which this model does not have",
        ),
    ],
)
def test_a_checkpoint_of_another_model_is_an_error(
    tmp_path: Path, change: dict[str, object], difference: str
) -> None:
    np.savez(tmp_path / "model.npz", **random_state(small()))
    found = "a Swin of 8 channels, depths .2, 2. with windows .2, 3, 3., 5 classes"
    with pytest.raises(InputError, match=f"model.npz is of another model .{found}.: {difference}"):
        load_weights(tmp_path / "model.npz", small(**change))


def test_an_image_model_is_inflated_and_its_head_of_equal_size_starts_fresh(tmp_path: Path) -> None:
    state = random_2d_state()
    np.savez(tmp_path / "image.npz", **state)
    model = small(1000, window_size=(4, 4, 4))
    # The names of the model's classes do not select classes of images.
    names = [f"class {index}" for index in range(1000)]
    params, report = load(tmp_path / "image.npz", model, label_names=names)
    jax.tree.map(
        np.testing.assert_array_equal, params["head"], init_params(model, jax.random.key(0))["head"]
    )
    assert params["layers_0"]["blocks_0"]["attn"]["relative_position_bias_table"].shape == (343, 1)
    assert (report.layout, report.count("transformed")) == ("microsoft", 5)
    assert report.named("fresh") == ("head.bias", "head.weight")
    reason = "fresh, the file has the classifier of an image model, of 1000 classes"
    assert reason in report.summary()
    _, report = load(tmp_path / "image.npz", small(5), patches="center", tables="center")
    assert "5 transformed, 2 fresh, 0 unexpected" in report.summary()
    assert "into frame 1 of 2" in report.summary()
    assert "4 relative_position_bias_tables: put at offset 0 in time" in report.summary()
    assert reason in report.summary()


def test_the_head_of_an_image_model_is_kept_on_demand(tmp_path: Path) -> None:
    state = random_2d_state()
    np.savez(tmp_path / "image.npz", **state)
    params, report = load(tmp_path / "image.npz", small(1000), image_head="keep")
    np.testing.assert_array_equal(params["head"]["kernel"], state["head.weight"].T)
    assert report.count("fresh") == 0
    with pytest.raises(InputError, match="Unknown treatment of an image model's head 'kept'"):
        load(tmp_path / "image.npz", small(1000), image_head="kept")
    with pytest.raises(InputError, match=r"no head of 1000 classes .*1000 classes of images\)"):
        load(tmp_path / "image.npz", small(1000), allow_fresh=())


def test_a_wrapped_source_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = random_state(small())
    wrapped = {f"model._orig_mod.{name}": value for name, value in state.items()}
    teacher = {f"teacher.{name}": value + 1 for name, value in state.items()}
    save_file(wrapped | teacher | {"loss.center": np.ones(3)}, tmp_path / "model.safetensors")
    params, report = load(tmp_path / "model.safetensors", small())
    np.testing.assert_array_equal(params["head"]["bias"], state["head.bias"])
    assert report.notes == (
        "of several Swins, the one under 'model.' was taken, not 'teacher.'",
        f"removed 'model._orig_mod.' from {len(state)} of {len(state)} names",
    )
    assert set(report.named("unexpected")) == {"loss.center", *teacher}
    entry = next(entry for entry in report.entries if entry.name == "head.bias")
    assert entry.source_names == ("model._orig_mod.head.bias",)
    assert report.to_json()["notes"] == list(report.notes)
    assert "\n  of several Swins" in caplog.text


def test_layers_around_a_trunk_are_no_sign_of_another_model(tmp_path: Path) -> None:
    state = random_state(small())
    around = ("norm.weight", "layers.0.weight", "patch_embed.proj.bias")
    wrapped = {f"backbone.{name}": value for name, value in state.items()}
    np.savez(tmp_path / "model.npz", **wrapped, **dict.fromkeys(around, np.ones(3)))
    params, report = load(tmp_path / "model.npz", small())
    np.testing.assert_array_equal(params["norm"]["scale"], state["norm.weight"])
    assert report.named("unexpected") == around


def test_a_video_model_is_resized(tmp_path: Path) -> None:
    state = random_state(small())
    np.savez(tmp_path / "model.npz", **state)
    model = small(window_size=(4, 3, 3), patch_size=(4, 4, 4))
    params, report = load(tmp_path / "model.npz", model)
    assert params["patch_embed"]["proj"]["kernel"].shape == (4, 4, 4, 3, 8)
    assert params["layers_1"]["blocks_0"]["attn"]["relative_position_bias_table"].shape == (175, 2)
    assert "spread from 2 to 4 frames" in report.summary()
    assert report.count("transformed") == 5


def test_scalar_tables_are_an_error(tmp_path: Path) -> None:
    state = random_state(small())
    tables = {name: np.float32(0) for name in state if name.endswith("bias_table")}
    np.savez(tmp_path / "model.npz", **{**state, **tables})
    with pytest.raises(InputError, match="0 rows, which fit no window"):
        load_weights(tmp_path / "model.npz", small())


def test_the_window_of_a_source_can_be_given(tmp_path: Path) -> None:
    # (2, 3, 8) and (2, 8, 3) have equally many rows, and neither has equal height and width.
    np.savez(tmp_path / "model.npz", **random_state(small(window_size=(2, 3, 8))))
    model = small(window_size=(2, 3, 3))
    with pytest.raises(InputError, match=r"window \(2, 3, 3\), of 75 rows, but .*\(225, 1\)"):
        load_weights(tmp_path / "model.npz", model, from_window=(2, 3, 3))
    _, report = load(tmp_path / "model.npz", model, from_window=(2, 3, 8))
    assert "from window 3x8 to 3x3" in report.summary()


def test_half_precision_becomes_float32_and_is_reported(tmp_path: Path) -> None:
    state = {name: value.astype(np.float16) for name, value in random_state(small()).items()}
    np.savez(tmp_path / "model.npz", **state)
    params, report = load(tmp_path / "model.npz", small())
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(params))
    np.testing.assert_array_equal(params["norm"]["scale"], state["norm.weight"])
    assert {entry.how for entry in report.entries} == {"float16 to float32"}


def test_bfloat16_of_safetensors(tmp_path: Path) -> None:
    state = {
        name: value.astype(ml_dtypes.bfloat16) for name, value in random_state(small()).items()
    }
    save_file(state, tmp_path / "model.safetensors")
    params, _ = load(tmp_path / "model.safetensors", small())
    expected = state["head.weight"].astype(np.float32).T
    np.testing.assert_array_equal(params["head"]["kernel"], expected)


def test_only_allowed_parameters_may_be_fresh(tmp_path: Path) -> None:
    state = random_state(small())
    del state["patch_embed.norm.weight"]
    np.savez(tmp_path / "model.npz", **state)
    with pytest.raises(InputError, match=r"has no 'patch_embed\.norm\.weight'"):
        load_weights(tmp_path / "model.npz", small())
    _, report = load(tmp_path / "model.npz", small(), allow_fresh=["patch_embed.norm"])
    assert report.named("fresh") == ("patch_embed.norm.weight",)
    with pytest.raises(InputError, match=r"has no head of 7 classes .*, 5 classes\)"):
        load_weights(tmp_path / "model.npz", small(7), allow_fresh=["patch_embed.norm"])


def test_an_unexpected_tensor_is_reported_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    np.savez(tmp_path / "model.npz", mask_token=np.zeros(8), **random_state(small()))
    _, report = load(tmp_path / "model.npz", small())
    assert report.named("unexpected") == ("mask_token",)
    assert "mask_token: left out" in caplog.text


def test_classes_are_selected_by_name(tmp_path: Path) -> None:
    state = random_state(small(5))
    np.savez(tmp_path / "model.npz", **state)
    options = {"source_labels": list("abcde"), "label_names": ["d", "a"]}
    params, report = load(tmp_path / "model.npz", small(2), **options)
    np.testing.assert_array_equal(params["head"]["kernel"], state["head.weight"][[3, 0]].T)
    assert "2 of 5 classes, chosen by name" in report.summary()
    with pytest.raises(InputError, match="each of the model's 3 classes but 2 came"):
        load_weights(tmp_path / "model.npz", small(3), **options)
    with pytest.raises(InputError, match=r"names of the checkpoint's 5 classes.*source_labels"):
        load_weights(tmp_path / "model.npz", small(2), label_names=["d", "a"])


def test_a_vswin_jax_checkpoint_has_its_classes_and_window(tmp_path: Path) -> None:
    model = small(3, window_size=(2, 3, 5))
    params = from_state_dict(random_state(model))
    metadata = {
        "config": {"model": {"window_size": [2, 3, 5]}},
        "label_names": ["fall", "rise", "turn"],
    }
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(1, {"params": params}, metadata)
    same, report = load(tmp_path, model)
    jax.tree.map(np.testing.assert_array_equal, same, params)
    assert (report.layout, report.count("matched")) == ("vswin_jax", len(report.entries))
    other = small(2, window_size=(2, 3, 3))
    chosen, report = load(tmp_path, other, label_names=["turn", "fall"])
    np.testing.assert_array_equal(chosen["head"]["bias"], params["head"]["bias"][[2, 0]])
    assert "from window 3x5 to 3x3" in report.summary()


def test_released_names_and_urls_are_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez(tmp_path / "model.npz", **random_state(small()))
    requested = []

    def fetch(name: str) -> Path:
        requested.append(name)
        return tmp_path / "model.npz"

    monkeypatch.setattr(zoo, "fetch", fetch)
    for source in ("swin3d_t", "swin_tiny_patch4_window7_224.pth", "https://here/model.npz"):
        assert load(source, small())[1].source == source
    assert requested == ["swin3d_t", "swin_tiny_patch4_window7_224", "https://here/model.npz"]
    with pytest.raises(InputError, match=r"no checkpoint at swin3d_x.*did you mean 'swin3d_"):
        load_weights("swin3d_x", small())


def test_no_tensor_is_in_memory_twice(tmp_path: Path) -> None:
    model = small(embed_dim=192)
    path = tmp_path / "model.safetensors"
    state = random_state(small())
    shapes = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
    state = to_state_dict(jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes))
    save_file({name: np.ascontiguousarray(value) for name, value in state.items()}, path)
    del state
    load_weights(path, model)
    tracemalloc.start()
    load_weights(path, model)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert path.stat().st_size > 10e6
    assert peak < 1.5 * path.stat().st_size


def test_unreadable_files_are_errors(tmp_path: Path) -> None:
    for source in (tmp_path / "none.npz", "none.safetensors", ""):
        with pytest.raises(InputError, match="There is no checkpoint at"):
            load_weights(source, small())
    np.savez(tmp_path / "model.npz", **random_state(small()))
    whole = (tmp_path / "model.npz").read_bytes()
    save_file(random_state(small()), tmp_path / "model.safetensors")
    tensors = (tmp_path / "model.safetensors").read_bytes()
    for content, message in (
        (b"", "is empty"),
        (b"\x00" * 64, "is not a file of torch.save"),
        (b"<!DOCTYPE html><html>", "is a web page"),
        (whole[: len(whole) // 2], "cut short or damaged"),
        (tensors[:-8], "not a readable safetensors file"),
        (whole.replace(b"NUMPY", b"NUMPI"), "not a readable npz file"),
    ):
        (tmp_path / "broken").write_bytes(content)
        with pytest.raises(InputError, match=message):
            load_weights(tmp_path / "broken", small())


def test_integers_are_refused(tmp_path: Path) -> None:
    state = {name: value.astype(np.int8) for name, value in random_state(small()).items()}
    np.savez(tmp_path / "model.npz", **state)
    with pytest.raises(InputError, match=r"floating-point weights but .* is int8"):
        load_weights(tmp_path / "model.npz", small())


@pytest.mark.long
@pytest.mark.parametrize("shape", [(), (0,), (8, 3), (8, 3, 2, 4, 4, 1)])
@pytest.mark.parametrize(
    "name",
    [
        "patch_embed.proj.weight",
        "head.weight",
        "head.bias",
        "layers.0.blocks.0.attn.relative_position_bias_table",
    ],
)
@pytest.mark.parametrize(
    "state", [random_2d_state, lambda: random_state(small())], ids=["image", "video"]
)
def test_odd_shapes_never_crash(
    tmp_path: Path, state: Callable[[], State], name: str, shape: tuple[int, ...]
) -> None:
    options = {
        "allow_fresh": (),
        "label_names": list("abcde") if state is not random_2d_state else None,
    }
    np.savez(tmp_path / "model.npz", **{**state(), name: np.zeros(shape, np.float32)})
    with pytest.raises(InputError):
        load_weights(
            tmp_path / "model.npz", small(1000 if state is random_2d_state else 5), **options
        )
