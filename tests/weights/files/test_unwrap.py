"""The Swin is found in files as wrappers, trainers and users write them."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from vswin_jax.errors import InputError
from vswin_jax.weights.files.pickles import OpaqueObject
from vswin_jax.weights.files.read import read_weight_file
from vswin_jax.weights.files.unwrap import UnwrappedState, unwrap
from vswin_jax.weights.layouts import layouts

FIXTURES = Path(__file__).parents[2] / "data" / "weights"
WRAPPED = sorted(path.name for path in (FIXTURES / "wrapped").iterdir())
State = dict[str, np.ndarray]

PLAIN = {
    name: value
    for name, value in read_weight_file(FIXTURES / "mmaction2_half.pth").tensors.items()
    if not name.endswith("index")
}
OTHER = {name: value + np.float16(1) for name, value in PLAIN.items()}


def under(prefix: str, state: State = PLAIN) -> State:
    return {prefix + name: value for name, value in state.items()}


def assert_plain(found: UnwrappedState) -> None:
    """Check that the tensors are those of the plain file, by canonical name."""
    state, expected = layouts.to_canonical(found.tensors), layouts.to_canonical(PLAIN)
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(state[name], value, err_msg=name, strict=True)


@pytest.mark.parametrize("name", WRAPPED)
def test_wrapped_files_have_the_tensors_of_the_plain_one(name: str) -> None:
    found = read_weight_file(FIXTURES / "wrapped" / name)
    counts = {"averaged_model.pth": ("n_averaged",), "mmengine_ema_alone.pth": ("steps",)}
    assert_plain(found)
    assert name not in counts or found.left_out == counts[name]
    assert not Path("was_executed").exists()


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "module.",
        "_orig_mod.",
        "module._orig_mod.",
        "_orig_mod.module.module.",
        "model.",
        "net._orig_mod.module.",
        "backbone.encoder.student.",
        "model.my-name_2.",
    ],
)
@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_any_prefix_is_removed_in_every_format(tmp_path: Path, prefix: str, suffix: str) -> None:
    path = tmp_path / f"model{suffix}"
    state = under(prefix) | {"n_averaged": np.array(3), "criterion.weight": np.ones(5)}
    np.savez(path, **state) if suffix == ".npz" else save_file(state, path)
    found = read_weight_file(path)
    assert_plain(found)
    assert set(found.left_out) == {"n_averaged", "criterion.weight"}
    assert found.file_names["cls_head.fc_cls.bias"] == f"{prefix}cls_head.fc_cls.bias"
    count = len(PLAIN)
    assert not prefix or f"{prefix!r} from {count} of" in found.notes[0]


@pytest.mark.parametrize(
    "keys", ["state_dict", "model", "ema_state_dict", "anything", "a b c d", "module state_dict"]
)
def test_any_nesting_in_dicts(keys: str) -> None:
    loaded: object = under("module.")
    for key in keys.split():
        loaded = {"epoch": 3, key: loaded, "optimizer": {"state": {0: {"step": np.ones(2)}}}}
    found = unwrap(loaded, "file")
    assert_plain(found)
    assert found.left_out == ()


@pytest.mark.parametrize(
    ("loaded", "taken", "not_taken"),
    [
        ({"ema": OTHER, "model": PLAIN}, "model.", "ema."),
        (under("net.") | under("net_ema.module.", OTHER), "net.", "net_ema."),
        (PLAIN | under("teacher.", OTHER), "", "teacher."),
        (under("encoder_q.") | under("encoder_k.", OTHER), "encoder_q.", "encoder_k."),
        ({"best": OTHER, "state_dict": PLAIN}, "state_dict.", "best."),
        ({"model": OTHER, "state_dict": PLAIN}, "state_dict.", "model."),
        (under("frozen.", OTHER) | under("student."), "student.", "frozen."),
        (under("module.", OTHER) | PLAIN, "", "module."),
        (PLAIN | under("module.", OTHER), "", "module."),
    ],
)
def test_trained_weights_come_before_averaged_ones_and_known_names_before_others(
    loaded: dict[str, object], taken: str, not_taken: str
) -> None:
    found = unwrap(loaded, "file")
    assert_plain(found)
    assert found.notes[0] == (
        f"of several Swins, the one under '{taken}backbone.' was taken, not '{not_taken}backbone.'"
    )


def test_several_swins_of_equal_rank_are_an_error() -> None:
    with pytest.raises(InputError, match=r"begin with 'a.backbone.', 'b.backbone.': choose one"):
        unwrap(under("a.") | under("b.", OTHER), "file")
    with pytest.raises(InputError, match=r"'ema_1.backbone.', 'ema_2.backbone.'"):
        unwrap({"ema_1": PLAIN, "ema_2": OTHER}, "file")


@pytest.mark.parametrize("prefix", ["ema", "ema.", "ema.module", "state_dict.ema.module."])
def test_a_prefix_chooses_a_swin(prefix: str) -> None:
    loaded = {"state_dict": under("model.", OTHER) | under("ema.module."), "epoch": 3}
    found = unwrap(loaded, "file", prefix)
    assert_plain(found)
    assert (
        "'state_dict.ema.backbone.' was taken, not 'state_dict.model.backbone.'" in found.notes[0]
    )
    with pytest.raises(InputError, match=r"no Swin under 'em': give another of 'state_dict.model."):
        unwrap(loaded, "file", "em")


def test_a_swin_with_two_names_is_no_choice() -> None:
    copied = {name: value.copy() for name, value in PLAIN.items()}
    found = unwrap(under("a.") | under("b.", copied), "file")
    assert_plain(found)
    assert found.notes == (f"removed 'a.' from {len(PLAIN)} of {len(PLAIN)} names",)
    assert len(found.left_out) == len(PLAIN)


def test_tensors_of_other_models_and_pixel_statistics_are_left_out() -> None:
    beside = {"model.data_preprocessor.mean": np.ones(3), "data_preprocessor.std": np.ones(3)}
    found = unwrap(under("model.") | {"loss.center": np.ones(2)} | beside, "file")
    assert_plain(found)
    assert found.left_out == ("loss.center",)


def test_names_inside_a_model_lose_wrappers_too() -> None:
    state = {
        name.replace("blocks.0.", "blocks.0._fsdp_wrapped_module._checkpoint_wrapped_module."): v
        for name, v in under("model.").items()
    }
    found = unwrap(state, "file")
    assert_plain(found)
    assert "'_fsdp_wrapped_module.' from 26" in found.notes[0]


def test_a_renamed_head_is_no_removed_prefix() -> None:
    trunk = {
        f"_orig_mod.enc.{name.removeprefix('backbone.').replace('norm3', 'norm')}": value
        for name, value in PLAIN.items()
        if name.startswith("backbone.")
    }
    head = {f"_orig_mod.fc.{leaf}": PLAIN[f"cls_head.fc_cls.{leaf}"] for leaf in ("weight", "bias")}
    found = unwrap(trunk | head, "file")
    assert_plain(found)
    assert found.file_names["head.bias"] == "_orig_mod.fc.bias"
    assert found.notes == (
        f"removed '_orig_mod.enc.' from {len(trunk)}, '_orig_mod.' from 2 of {len(PLAIN)} names",
    )


@pytest.mark.parametrize(
    "names",
    [
        # A user's class around the trunk, with layers that have the names of those of a trunk.
        ("norm.weight", "layers.0.weight", "patch_embed.proj.bias", "head_norm.weight"),
        # Other models beside it, whose names are those of other layouts, and of Swin V2.
        ("text.encoder.layers.0.attention.q_proj.weight", "text.relative_position_index"),
        ("vit.patch_embed.proj.weight", "vit.blocks.0.attn.logit_scale"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "net."])
def test_layers_around_and_beside_the_trunk_are_left_out(
    names: tuple[str, ...], prefix: str
) -> None:
    others = {prefix + name: np.ones(1) for name in names}
    found = unwrap(under(prefix) | others, "file")
    assert_plain(found)
    assert found.left_out == tuple(others)


def test_counts_and_extra_states_of_layers_are_no_parameters() -> None:
    layers = {name.rpartition(".")[0] for name in PLAIN}
    beside = {
        f"{layer}.{leaf}": np.ones(1) for layer in layers for leaf in ("total_ops", "_extra_state")
    }
    assert_plain(unwrap(PLAIN | beside, "file"))


@pytest.mark.parametrize("image", ["image_encoder.", "model.", ""])
def test_a_video_model_comes_before_an_image_model(image: str) -> None:
    patch = "backbone.patch_embed.proj.weight"
    state = under(image, OTHER | {patch: OTHER[patch][:, :, 0]}) | under("video.")
    assert_plain(unwrap(state, "file"))


def test_a_file_without_a_swin_keeps_its_names() -> None:
    found = unwrap({"net": {"module._orig_mod.a": np.ones(1), "module.b": np.ones(1)}}, "file")
    assert list(found.tensors) == ["_orig_mod.a", "b"]
    assert dict(found.file_names) == {"_orig_mod.a": "module._orig_mod.a", "b": "module.b"}


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_plain_pickle_of_arrays(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps({"model": under("module."), "author": "us"}, protocol))
    assert_plain(read_weight_file(path))


def test_an_object_with_slots() -> None:
    assert_plain(unwrap(OpaqueObject("x.State", state=(None, {"step": 3, "net": PLAIN})), "file"))


def test_shards_of_distributed_tensors_are_an_error() -> None:
    shard = OpaqueObject("torch.distributed.tensor.DTensor")
    with pytest.raises(InputError, match=r"that one process of several had: save the whole"):
        unwrap({"epoch": 3, "model": dict.fromkeys(PLAIN, shard)}, "file")


def test_a_plain_pickle_of_tensors() -> None:
    assert_plain(read_weight_file(FIXTURES / "wrapped" / "plain_pickle.pkl"))


def test_dicts_that_hold_each_other_and_objects_of_any_state_take_no_time() -> None:
    deep: dict[str, object] = {}
    for _ in range(60):
        deep = {str(n): deep for n in range(60)}
    shared = {str(n): n for n in range(3000)}
    states = (shared, (shared, {}), (3, 4), [1], {"_modules": shared, "_buffers": 3}, "text", ())
    objects = {
        str(n): OpaqueObject("x.y", items=shared, state=states[n % len(states)])
        for n in range(3000)
    }
    chain: object = None
    for _ in range(5000):
        chain = OpaqueObject(
            "torch._utils._rebuild_xla_tensor", (chain,), None, {"_modules": chain}
        )
    objects["chain"] = chain
    loop: dict[str, object] = {"state_dict": [3, (PLAIN,)]}
    loop["self"] = loop
    assert_plain(unwrap({"deep": deep, "objects": objects, "loop": loop, 3: {}}, "file"))
