"""Trunks and heads among names, the choice among several, and names without wrappers."""

import json
from pathlib import Path

import pytest

from vswin_jax.weights.layouts.wrapped_names import (
    Trunk,
    choose_trunks,
    find_head,
    find_trunks,
    strip_wrappers,
    wrappers_in,
)

# Names and shapes in each layout, written with the libraries.
NAMES = json.loads((Path(__file__).parents[2] / "data/weights/layout_names.json").read_text())
MODEL = ("patch_embed.proj.weight", "layers.0.blocks.0.attn.qkv.weight", "norm.weight")
SHAPES = {"patch_embed.proj.weight": (8, 3, 4, 4), "norm.weight": (16,)}


@pytest.mark.parametrize("prefix", ["", "model.", "a.features.", "encoder.", "swin.", "backbone."])
@pytest.mark.parametrize("layout", NAMES)
def test_every_layout_is_found_under_every_prefix(layout: str, prefix: str) -> None:
    (trunk,) = find_trunks(prefix + name for name in NAMES[layout])
    assert trunk.prefix == prefix + ("swin." if layout.startswith("huggingface") else "")
    assert f"{trunk.wrapper}{trunk.own}" == trunk.prefix
    assert trunk.wrapper in (prefix, prefix.removesuffix("backbone."))


@pytest.mark.parametrize(
    "names",
    [
        (),
        ("patch_embed.proj.weight", "blocks.0.attn.qkv.weight"),  # a ViT
        ("features.0.0.weight", "features.1.0.block.0.weight"),  # a ConvNeXt
        ("a.patch_embed.proj.weight", "b.layers.0.blocks.0.attn.qkv.weight"),
        ("patch_embed.proj.weights", "layers.0.blocks.0.attn.qkv.weight"),
    ],
)
def test_other_models_have_no_trunk(names: tuple[str, ...]) -> None:
    assert find_trunks(names) == []


@pytest.mark.parametrize(
    ("prefixes", "expected"),
    [
        (("a.", "b."), ("a.", "b.")),
        (("model.a.", "model.b_ema."), ("model.a.",)),
        (("ema.model.", "ema.net."), ("ema.model.",)),
        (("", "model."), ("",)),
        (("x.", "net.", "model."), ("model.",)),
        (("teacher.", "momentum_encoder.", "swa_2."), ("teacher.", "momentum_encoder.", "swa_2.")),
        (("schema.", "averaged_model."), ("schema.",)),
        (("x.", "modelEMA."), ("x.",)),
        (("x.", "EMAmodel."), ("x.",)),
        (("x.", "ModelEmaV2."), ("x.",)),
        (("x.", "model-ema."), ("x.",)),
        (("x.", "MeanTeacher.", "PolyakAveraged."), ("x.",)),
        (("CINEMAnet.", "schemaNet."), ("CINEMAnet.", "schemaNet.")),
    ],
)
def test_the_choice_among_several(prefixes: tuple[str, ...], expected: tuple[str, ...]) -> None:
    trunks = [Trunk(prefix, "", f"{prefix}patch_embed.proj.weight") for prefix in prefixes]
    assert tuple(trunk.prefix for trunk in choose_trunks(trunks)) == expected


def test_names_without_wrappers() -> None:
    name = "_orig_mod.module.model.layers.0._checkpoint_wrapped_module.module.norm.weight"
    assert strip_wrappers(name) == "model.layers.0.norm.weight"
    assert wrappers_in(name) == ["_orig_mod", "module", "_checkpoint_wrapped_module"]
    assert strip_wrappers("my_module.modules.weight") == "my_module.modules.weight"


def head_of(
    *modules: tuple[str, tuple[int, ...]], prefix: str = "net.trunk.", other: str | None = None
) -> dict[str, str]:
    shapes = {prefix + name: shape for name, shape in SHAPES.items()}
    for name, shape in modules:
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    others = [Trunk(other, "", f"{other}patch_embed.proj.weight")] if other is not None else []
    return find_head(shapes, Trunk(prefix, "", f"{prefix}patch_embed.proj.weight"), others)


@pytest.mark.parametrize(
    "name",
    [
        *("fc", "net.head", "net.classifier.1", "net.trunk.linear", "head", "cls", "net.logits"),
        *("action_head", "mlp_head.1", "net.classifier.net.0", "head.1.linear", "cls_head.fc"),
    ],
)
def test_heads_of_users_classes(name: str) -> None:
    expected = {f"{name}.weight": "head.weight", f"{name}.bias": "head.bias"}
    assert head_of((name, (5, 16))) == expected


def test_what_is_no_head() -> None:
    assert head_of(("fc", (5, 8))) == {}
    assert head_of(("fc", (5, 16, 1))) == {}
    assert head_of(("loss", (5, 16))) == {}
    assert head_of(("projection_head", (5, 16)), ("net.proj", (5, 16))) == {}
    assert head_of(("net.head.0", (512, 16)), ("net.head.3", (5, 512))) == {}
    assert head_of(("net.head", (5, 16)), ("net.fc", (5, 16))) == {}
    assert head_of(("verb_head", (5, 16)), ("noun_head", (7, 16))) == {}
    # The head may belong to the other trunk.
    assert head_of(("fc", (5, 16)), other="other.") == {}
    # The rename rules know this one.
    assert head_of(("net.trunk.head", (5, 16)), ("fc", (5, 16))) == {}
