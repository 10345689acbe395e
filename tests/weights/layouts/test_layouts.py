"""Detection of layouts, canonical names, and round trips through the Flax tree."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest

from vswin_jax.errors import InputError
from vswin_jax.models import create_model, init_params
from vswin_jax.models.variants import VARIANTS
from vswin_jax.weights.layouts.layouts import (
    LAYOUTS_3D,
    detect_layout,
    from_canonical,
    source_names,
    to_canonical,
)
from vswin_jax.weights.layouts.names import from_state_dict, to_state_dict

DATA = Path(__file__).parents[2] / "data"
# Written by `write_layout_names.py` with the libraries.
NAMES = json.loads((DATA / "weights" / "layout_names.json").read_text())

State = dict[str, np.ndarray]
Shapes = dict[str, tuple[int, ...]]


def block_shapes(width: int, heads: int, rows: int) -> Shapes:
    return {
        "norm1.weight": (width,),
        "norm1.bias": (width,),
        "attn.relative_position_bias_table": (rows, heads),
        "attn.qkv.weight": (3 * width, width),
        "attn.qkv.bias": (3 * width,),
        "attn.proj.weight": (width, width),
        "attn.proj.bias": (width,),
        "norm2.weight": (width,),
        "norm2.bias": (width,),
        "mlp.fc1.weight": (4 * width, width),
        "mlp.fc1.bias": (4 * width,),
        "mlp.fc2.weight": (width, 4 * width),
        "mlp.fc2.bias": (width,),
    }


def canonical_shapes(
    width: int,
    depths: tuple[int, ...],
    heads: tuple[int, ...],
    rows: int,
    patch: tuple[int, ...],
    classes: int,
) -> Shapes:
    """Return the shapes of any Swin, in the names of the reference's state dict."""
    shapes = {
        "patch_embed.proj.weight": (width, 3, *patch),
        **{f"patch_embed.{name}": (width,) for name in ("proj.bias", "norm.weight", "norm.bias")},
    }
    for stage, depth in enumerate(depths):
        own, last = width * 2**stage, stage + 1 == len(depths)
        for block in range(depth):
            for name, shape in block_shapes(own, heads[stage], rows).items():
                shapes[f"layers.{stage}.blocks.{block}.{name}"] = shape
        if not last:
            merge = f"layers.{stage}.downsample."
            shapes[merge + "reduction.weight"] = (2 * own, 4 * own)
            shapes |= {merge + "norm.weight": (4 * own,), merge + "norm.bias": (4 * own,)}
    final = {"norm.weight": (own,), "norm.bias": (own,)}
    return shapes | final | {"head.weight": (classes, own), "head.bias": (classes,)}


SMALL_2D = canonical_shapes(8, (2, 2), (1, 2), 25, (4, 4), 5)
SMALL_3D = canonical_shapes(8, (2, 2), (1, 2), 75, (2, 4, 4), 5)


def values_for(shapes: Shapes) -> State:
    """Return a state with random values."""
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}


def cheap_values_for(shapes: Shapes) -> State:
    """Return tensors that take little memory and differ from their transposes."""
    return {name: _cheap(shape, seed) for seed, (name, shape) in enumerate(shapes.items())}


def _cheap(shape: tuple[int, ...], seed: int) -> np.ndarray:
    steps = (1, 3, 5, 7, 11)[: len(shape)]
    length = 1 + sum((n - 1) * step for n, step in zip(shape, steps, strict=True))
    buffer = np.arange(seed, seed + length, dtype=np.float32)
    return np.lib.stride_tricks.as_strided(buffer, shape, [4 * step for step in steps])


def same_memory(one: np.ndarray, other: np.ndarray) -> bool:
    """Return True if two arrays are the same view of the same memory."""
    ones, others = one.__array_interface__, other.__array_interface__
    return all(ones[k] == others[k] for k in ("data", "shape", "typestr")) and (
        one.strides == other.strides
    )


def microsoft_state() -> State:
    """Return a 2D state in the form of microsoft's trainer, with both kinds of buffers."""
    state = values_for(SMALL_2D)
    for stage, block in ((0, 0), (0, 1), (1, 0), (1, 1)):
        attn = f"layers.{stage}.blocks.{block}."
        state[attn + "attn.relative_position_index"] = np.zeros((9, 9), np.int64)
        if block:
            state[attn + "attn_mask"] = np.zeros((4, 9, 9), np.float32)
    return state


def states_of_all_layouts() -> Iterator[tuple[str, State, Shapes]]:
    for layout, shapes in NAMES.items():
        yield layout, values_for(shapes), SMALL_3D if layout == "torchvision" else SMALL_2D
    yield "microsoft", microsoft_state(), SMALL_2D
    video = values_for(SMALL_3D)
    yield "original", {"backbone." + k: v for k, v in video.items()}, SMALL_3D
    yield "original", video, SMALL_3D
    yield "mmaction2", from_canonical(video, "mmaction2"), SMALL_3D


@pytest.mark.parametrize(
    ("layout", "state", "expected"),
    [pytest.param(*case, id=case[0]) for case in states_of_all_layouts()],
)
def test_every_layout_is_detected_and_renamed(layout: str, state: State, expected: Shapes) -> None:
    assert detect_layout(state) == layout
    canonical = to_canonical(state)
    assert {name: value.shape for name, value in canonical.items()} == expected
    for name, own in source_names(state).items():
        parts = np.concatenate([state[part] for part in own])
        np.testing.assert_array_equal(canonical[name], parts, err_msg=name)


def test_the_released_swin_tiny_has_the_original_layout() -> None:
    lines = (DATA / "swin_t_state_dict.txt").read_text().splitlines()
    released = {name: np.zeros(1) for name in (line.split()[0] for line in lines)}
    released["backbone.patch_embed.proj.weight"] = np.zeros((96, 3, 2, 4, 4))
    tiny = canonical_shapes(96, (2, 2, 6, 2), (3, 6, 12, 24), 2535, (2, 4, 4), 400)
    assert detect_layout(released) == "original"
    assert to_canonical(released).keys() == tiny.keys()


BLOCK = "swin.encoder.layers.1.blocks.0."


@pytest.mark.parametrize(
    ("layout", "source", "canonical"),
    [
        ("huggingface", BLOCK + "attention.output.dense.weight", "layers.1.blocks.0.attn.proj"),
        ("huggingface", BLOCK + "output.dense.weight", "layers.1.blocks.0.mlp.fc2"),
        ("huggingface", BLOCK + "layernorm_after.weight", "layers.1.blocks.0.norm2"),
        ("huggingface_memory", BLOCK + "attention.o_proj.weight", "layers.1.blocks.0.attn.proj"),
        ("timm", "layers.1.downsample.norm.weight", "layers.0.downsample.norm"),
        ("timm", "head.fc.weight", "head"),
        ("torchvision", "features.1.norm.weight", "layers.0.downsample.norm"),
        ("torchvision", "features.2.1.mlp.3.weight", "layers.1.blocks.1.mlp.fc2"),
        ("torchvision_2d", "features.2.norm.weight", "layers.0.downsample.norm"),
        ("torchvision_2d", "features.3.1.mlp.0.weight", "layers.1.blocks.1.mlp.fc1"),
        ("torchvision_2d", "features.0.2.weight", "patch_embed.norm"),
    ],
)
def test_tensors_get_their_canonical_names(layout: str, source: str, canonical: str) -> None:
    assert source_names(values_for(NAMES[layout]))[canonical + ".weight"] == (source,)


@pytest.mark.parametrize("layout", ["huggingface", "huggingface_memory"])
def test_queries_keys_and_values_are_joined_in_this_order(layout: str) -> None:
    state = values_for(NAMES[layout])
    qkv = to_canonical(state)["layers.1.blocks.1.attn.qkv.bias"]
    for part, letter in enumerate("qkv"):
        (name,) = (
            name
            for name in state
            if re.search(rf"layers\.1\.blocks\.1\..*\b{letter}(uery|ey|alue|_proj)\.bias$", name)
        )
        np.testing.assert_array_equal(qkv[16 * part : 16 * (part + 1)], state[name])


def test_an_old_timm_file_is_of_the_microsoft_layout() -> None:
    assert detect_layout(values_for(SMALL_2D)) == "microsoft"


def test_a_file_without_head_or_patch_norm_is_detected_too() -> None:
    state = values_for(SMALL_2D)
    kept = {k: v for k, v in state.items() if not k.startswith(("head.", "patch_embed.norm."))}
    assert detect_layout(kept) == "microsoft"
    assert to_canonical(kept).keys() == kept.keys()
    for layout in ("timm", "huggingface"):
        bare = {
            k.removeprefix("swin."): v
            for k, v in values_for(NAMES[layout]).items()
            if not k.startswith(("head.", "classifier."))
        }
        assert detect_layout(bare) == layout
        assert to_canonical(bare).keys() == {k for k in SMALL_2D if not k.startswith("head.")}


def test_the_last_numbered_norm_of_mmaction2_is_the_final_norm() -> None:
    state = from_canonical(values_for(SMALL_3D), "mmaction2")
    assert "backbone.norm1.weight" in state  # of two stages
    state["backbone.norm0.weight"] = np.zeros(8, np.float32)
    state["data_preprocessor.mean"] = np.zeros((3, 1, 1, 1), np.float32)
    canonical = to_canonical(state)
    assert canonical["norm.weight"] is state["backbone.norm1.weight"]
    assert canonical.keys() - SMALL_3D.keys() == {"norm0.weight"}


def test_the_last_norm_of_a_detector_is_the_final_norm() -> None:
    state = {f"backbone.{name}": value for name, value in values_for(SMALL_2D).items()}
    state = {name: value for name, value in state.items() if ".head." not in name}
    for leaf in ("weight", "bias"):
        state[f"backbone.norm1.{leaf}"] = state.pop(f"backbone.norm.{leaf}")
        state[f"backbone.norm0.{leaf}"] = np.zeros(8, np.float32)
    state["rpn_head.weight"] = np.zeros((3, 8), np.float32)
    canonical = to_canonical(state)
    assert detect_layout(state) == "microsoft"
    assert canonical["norm.weight"] is state["backbone.norm1.weight"]
    beside = {"norm0.weight", "norm0.bias", "rpn_head.weight"}
    assert canonical.keys() == {n for n in SMALL_2D if not n.startswith("head.")} | beside


def test_a_name_without_a_rule_is_kept() -> None:
    state = values_for(NAMES["huggingface"])
    state["swin.embeddings.mask_token"] = state["ema.decay"] = np.zeros(1, np.float32)
    del state[BLOCK + "attention.self.key.weight"]
    left_over = source_names(state).keys() - SMALL_2D.keys()
    assert left_over == {
        "embeddings.mask_token",
        "ema.decay",
        "layers.1.blocks.0.attn.query.weight",
        "layers.1.blocks.0.attn.value.weight",
    }
    assert "layers.1.blocks.0.attn.qkv.weight" not in source_names(state)


@pytest.mark.parametrize("layout", LAYOUTS_3D)
@pytest.mark.parametrize("variant", VARIANTS)
def test_round_trips_are_bit_exact(variant: str, layout: str) -> None:
    own = VARIANTS[variant]
    shapes = canonical_shapes(own.embed_dim, own.depths, own.num_heads, 2535, (2, 4, 4), 400)
    state = from_canonical(cheap_values_for(shapes), layout)
    assert detect_layout(state) == layout
    params = from_state_dict(to_canonical(state))
    back = from_canonical(to_state_dict(params), layout)
    assert back.keys() == state.keys()
    assert all(same_memory(back[name], state[name]) for name in state)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_canonical_state_has_the_shapes_of_the_flax_tree(variant: str) -> None:
    own = VARIANTS[variant]
    shapes = canonical_shapes(own.embed_dim, own.depths, own.num_heads, 2535, (2, 4, 4), 400)
    params = from_state_dict(cheap_values_for(shapes))
    expected = jax.eval_shape(lambda: init_params(create_model(variant), jax.random.key(0)))
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, expected)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "holds nothing, which are not the tensors of a whole Swin"),
        (
            ("fc.weight",),
            "holds 'fc.weight', which are not .* supported layout .original, mmaction2, .*timm",
        ),
        ("abcdef", "holds 'a', 'b', 'c', 'd' and 2 more"),
        (("layers.0.blocks.0.attn.qkv.weight",), "not the tensors of a whole Swin"),
        (("patch_embed.proj.weight",), "not the tensors of a whole Swin"),
        (("layers.0.blocks.0.attn.logit_scale", "patch_embed.proj.weight"), "Swin V2"),
    ],
)
def test_other_checkpoints_are_errors(names: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        detect_layout({name: np.zeros((8, 3, 4, 4), np.float32) for name in names})


def test_two_names_of_one_tensor_are_an_error() -> None:
    state = values_for(SMALL_3D)
    state["cls_head.fc_cls.weight"] = state["head.weight"]
    with pytest.raises(InputError, match=r"'head.weight' and 'cls_head.fc_cls.weight', .* both"):
        to_canonical(state)


def test_queries_of_another_shape_are_an_error() -> None:
    state = values_for(NAMES["huggingface"])
    state[BLOCK + "attention.self.query.bias"] = np.zeros((), np.float32)
    with pytest.raises(InputError, match=r"one shape, got .*query.bias \(\), .*key.bias \(16,\)"):
        to_canonical(state)


def test_an_unknown_layout_is_an_error() -> None:
    with pytest.raises(InputError, match="Unknown layout 'tim': did you mean 'timm'"):
        to_canonical(values_for(SMALL_2D), "tim")
    with pytest.raises(InputError, match=r"Unknown layout to write 'timm'.* mmaction2, original"):
        from_canonical(values_for(SMALL_3D), "timm")
