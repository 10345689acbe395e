"""The rules that rename the parameters of each layout to canonical names."""

import re
from collections.abc import Callable, Mapping

import numpy as np

from vswin_jax.errors import unknown_name

# Pairs of (pattern, replacement). All are applied, in this order.
RenameRules = tuple[tuple[str, str | Callable[[re.Match], str]], ...]

_HEADS: RenameRules = (
    (r"^(backbone|swin)\.", ""),
    (r"^(cls_head\.fc_cls|classifier|head\.fc)\.", "head."),
)


def _rename_features(first_stage: int) -> Callable[[re.Match], str]:
    """Return the replacement for torchvision's `features.<index>.`.

    The indices alternate between stages and patch merging layers, from `first_stage` on.
    """

    def replace(match: re.Match) -> str:
        stage, is_merging = divmod(int(match[1]) - first_stage, 2)
        return f"layers.{stage}.downsample." if is_merging else f"layers.{stage}.blocks."

    return replace


_SEQUENTIAL_MLP: RenameRules = ((r"\.mlp\.0\.", ".mlp.fc1."), (r"\.mlp\.3\.", ".mlp.fc2."))

_HUGGING_FACE: RenameRules = (
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.norm\.", "patch_embed.norm."),
    (r"^encoder\.layers\.", "layers."),
    (r"^layernorm\.", "norm."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
)

_RULES: dict[str, RenameRules] = {
    "original": (),
    "mmaction2": (),
    "torchvision": ((r"^features\.(\d{1,3})\.", _rename_features(0)), *_SEQUENTIAL_MLP),
    "microsoft": (),
    "timm": (
        (r"^layers\.(\d{1,3})\.downsample\.", lambda m: f"layers.{int(m[1]) - 1}.downsample."),
    ),
    "huggingface": (
        *_HUGGING_FACE,
        # Before the rule for the MLP's `output.dense`, which is a suffix of this name.
        (r"\.attention\.output\.dense\.", ".attn.proj."),
        (r"\.attention\.self\.", ".attn."),
        (r"\.intermediate\.dense\.", ".mlp.fc1."),
        (r"\.output\.dense\.", ".mlp.fc2."),
    ),
    "huggingface_memory": (
        *_HUGGING_FACE,
        (r"\.attention\.o_proj\.", ".attn.proj."),
        (r"\.attention\.([qkv])_proj\.", r".attn.\1_proj."),
        (r"\.attention\.relative_position_bias\.", ".attn."),
    ),
    "torchvision_2d": (
        (r"^features\.0\.0\.", "patch_embed.proj."),
        (r"^features\.0\.2\.", "patch_embed.norm."),
        (r"^features\.(\d{1,3})\.", _rename_features(1)),
        *_SEQUENTIAL_MLP,
    ),
}


# The final norm has the number of the last stage in mmaction2, and in the detectors and segmenters
# that have a 2D Swin as their backbone.
_NUMBERED_NORMS = ("mmaction2", "microsoft", "timm")


def rename_rules(layout: str, state: Mapping[str, np.ndarray]) -> RenameRules:
    """Return the rules that rename the parameters in `state` to canonical names.

    Raises:
      InputError: the layout is unknown.
    """
    if layout not in _RULES:
        raise unknown_name("layout", layout, _RULES)
    numbered = _numbered_norm(state) if layout in _NUMBERED_NORMS else ()
    return _HEADS + _RULES[layout] + numbered


def _numbered_norm(state: Mapping[str, np.ndarray]) -> RenameRules:
    """Return the rule for a final norm that is the last of several numbered norms."""
    norms = [m[1] for name in state if (m := re.match(r"(?:backbone\.)?norm(\d?)\.", name))]
    numbers = norms if "" not in norms else []
    return ((rf"^norm{max(numbers)}\.", "norm."),) if numbers else ()


def rename(name: str, rules: RenameRules) -> str:
    """Apply each rule once to `name`, in order."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name, count=1)
    return name
