"""The layouts in which Swin checkpoints come, found by their keys, to canonical names and back.

Canonical names are those of the original Video Swin checkpoints without the `backbone.` prefix
and the index buffers (`layers.0.blocks.0.attn.qkv.weight`, `norm.weight`, `head.weight`).
Source: checkpoint_formats, sections 1, 3 and 4.
"""

import re
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from vswin_jax.errors import InputError, unknown_name

LAYOUTS_3D = ("original", "mmaction2", "torchvision")
LAYOUTS_2D = ("microsoft", "timm", "huggingface", "huggingface_memory", "torchvision_2d")

# What PyTorch stores and geometry recomputes, and mmengine's means and deviations of pixels.
_BUFFER = re.compile(r"(^|\.)(relative_position_index|attn_mask)$|^data_preprocessor\.")

# (pattern, replacement), all applied, in this order.
Rules = tuple[tuple[str, str | Callable[[re.Match], str]], ...]

_HEADS: Rules = (
    (r"^(backbone|swin)\.", ""),
    (r"^(cls_head\.fc_cls|classifier|head\.fc)\.", "head."),
)


def _features(first_stage: int) -> Callable[[re.Match], str]:
    """torchvision's `features` alternate between stages and merges, from `first_stage` on."""

    def rename(match: re.Match) -> str:
        stage, merges = divmod(int(match[1]) - first_stage, 2)
        return f"layers.{stage}.downsample." if merges else f"layers.{stage}.blocks."

    return rename


_SEQUENTIAL_MLP: Rules = ((r"\.mlp\.0\.", ".mlp.fc1."), (r"\.mlp\.3\.", ".mlp.fc2."))

_HUGGING_FACE: Rules = (
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.norm\.", "patch_embed.norm."),
    (r"^encoder\.layers\.", "layers."),
    (r"^layernorm\.", "norm."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
)

_RULES: dict[str, Rules] = {
    "original": (),
    "mmaction2": (),  # its final norm has the number of the last stage, see `_numbered_norm`
    "torchvision": ((r"^features\.(\d{1,3})\.", _features(0)), *_SEQUENTIAL_MLP),
    "microsoft": (),
    "timm": (
        (r"^layers\.(\d{1,3})\.downsample\.", lambda m: f"layers.{int(m[1]) - 1}.downsample."),
    ),
    "huggingface": (
        *_HUGGING_FACE,
        # Before the MLP's `output.dense`, which is its suffix.
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
        (r"^features\.(\d{1,3})\.", _features(1)),
        *_SEQUENTIAL_MLP,
    ),
}

# Queries, keys and values that come apart, as the parts of our `qkv`.
_PART = re.compile(r"\.attn\.(query|key|value|[qkv]_proj)\.(weight|bias)$")
_PARTS = (("query", "key", "value"), ("q_proj", "k_proj", "v_proj"))


def detect(state: Mapping[str, np.ndarray]) -> str:
    """The layout of a state_dict, by its keys and its patch kernel's axes.

    Raises:
      InputError: these are not the keys of any layout we know.
    """
    names = set(state)
    if _has(names, r"\.attn\.(logit_scale|cpb_mlp\.)"):
        raise InputError(
            "The checkpoint is of a Swin V2, whose attention is another: give one of a Swin V1."
        )
    for layout, sign in (
        ("huggingface_memory", r"encoder\.layers\..*\.attention\.q_proj\."),
        ("huggingface", r"encoder\.layers\..*\.attention\.self\.query\."),
        ("torchvision_2d", r"^features\.0\.0\.weight$"),
        ("torchvision", r"^features\.\d+\.\d+\.attn\."),
    ):
        if _has(names, sign):
            return layout
    names = {name.removeprefix("backbone.") for name in names}
    if not _has(names, r"^layers\.\d+\.blocks\.\d+\.attn\."):
        raise _unknown_layout(state)
    return _detect_by_kernel(state, names)


def _has(names: Iterable[str], pattern: str) -> bool:
    return any(re.search(pattern, name) for name in names)


def _detect_by_kernel(state: Mapping[str, np.ndarray], names: set[str]) -> str:
    """Which of the four layouts with the original's block names."""
    kernel = next((state[name] for name in state if name.endswith("patch_embed.proj.weight")), None)
    axes = np.ndim(kernel) if kernel is not None else 0
    if axes == 5:
        return "mmaction2" if _has(names, r"^norm\d\.") else "original"
    if axes != 4:
        raise _unknown_layout(state)
    if _has(names, r"^layers\.0\.downsample\."):
        return "microsoft"
    return "timm" if _has(names, r"^(layers\.\d+\.downsample|head\.fc)\.") else "microsoft"


def _unknown_layout(state: Mapping[str, np.ndarray]) -> InputError:
    shown = ", ".join(repr(name) for name in list(state)[:4]) or "nothing"
    more = f" and {len(state) - 4} more" if len(state) > 4 else ""
    known = ", ".join((*LAYOUTS_3D, *LAYOUTS_2D))
    return InputError(
        f"The checkpoint holds {shown}{more}, which are not the tensors of a whole Swin: give one "
        f"in a layout we know ({known})."
    )


def sources(
    state: Mapping[str, np.ndarray], layout: str | None = None
) -> dict[str, tuple[str, ...]]:
    """For each canonical name the names in `state` that it comes from; buffers have none.

    There are three where queries, keys and values come apart, one otherwise. What no rule knows
    keeps its own name.

    Raises:
      InputError: the layout is not known, or two names of `state` mean the same tensor.
    """
    rules = _rules_of(layout or detect(state), state)
    found: dict[str, tuple[str, ...]] = {}
    for name in state:
        if _BUFFER.search(name):
            continue
        renamed = _rename(name, rules)
        if renamed in found:
            raise InputError(
                f"The checkpoint has {found[renamed][0]!r} and {name!r}, which are both "
                f"{renamed!r}: take one of them out of it."
            )
        found[renamed] = (name,)
    return _join_parts(found)


def _rules_of(layout: str, state: Mapping[str, np.ndarray]) -> Rules:
    if layout not in _RULES:
        raise unknown_name("layout", layout, _RULES)
    return _HEADS + _RULES[layout] + (_numbered_norm(state) if layout == "mmaction2" else ())


def _numbered_norm(state: Mapping[str, np.ndarray]) -> Rules:
    """mmaction2 has a norm for each stage whose map it returns; the last stage's is the final."""
    numbers = [m[1] for name in state if (m := re.match(r"(?:backbone\.)?norm(\d)\.", name))]
    return ((rf"^norm{max(numbers)}\.", "norm."),) if numbers else ()


def _rename(name: str, rules: Rules) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name, count=1)
    return name


def _join_parts(found: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Complete triples of queries, keys and values under the name of our `qkv`, at their place."""
    joined = {}
    for name, own in found.items():
        match = _PART.search(name)
        parts = next((p for p in _PARTS if match and match[1] in p), ())
        siblings = [name.replace(match[0], f".attn.{part}.{match[2]}") for part in parts]
        qkv = name.replace(match[0], f".attn.qkv.{match[2]}") if match else name
        if parts and qkv not in found and all(sibling in found for sibling in siblings):
            joined[qkv] = tuple(found[sibling][0] for sibling in siblings)
        else:
            joined[name] = own
    return joined


def to_canonical(
    state: Mapping[str, np.ndarray], layout: str | None = None
) -> dict[str, np.ndarray]:
    """A state_dict of any layout under canonical names, without its buffers.

    Tensors stay the very arrays of `state`, but for queries, keys and values that come apart.

    Args:
      state: a state_dict; names that no layout knows are kept as they are.
      layout: one of `LAYOUTS_3D` or `LAYOUTS_2D`; None detects it.

    Raises:
      InputError: the layout is not known, or does not fit.
    """
    return {name: _value(state, own) for name, own in sources(state, layout).items()}


def _value(state: Mapping[str, np.ndarray], names: tuple[str, ...]) -> np.ndarray:
    if len(names) == 1:
        return state[names[0]]
    parts = [state[name] for name in names]
    if parts[0].ndim == 0 or len({part.shape for part in parts}) > 1:
        shapes = ", ".join(f"{name} {part.shape}" for name, part in zip(names, parts, strict=True))
        raise InputError(
            f"Queries, keys and values must have one shape, got {shapes}: give another file."
        )
    return np.concatenate(parts)


def from_canonical(state: Mapping[str, np.ndarray], layout: str) -> dict[str, np.ndarray]:
    """A canonical 3D state_dict, with or without index buffers, in one of `LAYOUTS_3D`.

    Raises:
      InputError: for another layout; we do not write those of image models.
    """
    if layout not in LAYOUTS_3D:
        raise unknown_name("layout to write", layout, LAYOUTS_3D)
    if layout == "torchvision":
        return {_to_torchvision(name): value for name, value in state.items()}
    stages = {int(m[1]) for name in state if (m := re.match(r"layers\.(\d+)\.", name))}
    norm = f"norm{max(stages)}." if layout == "mmaction2" else "norm."
    return {_to_mmcv(name, norm): value for name, value in state.items()}


def _to_mmcv(name: str, norm: str) -> str:
    if name.startswith("head."):
        return "cls_head.fc_cls." + name.removeprefix("head.")
    return "backbone." + re.sub(r"^norm\.", norm, name)


def _to_torchvision(name: str) -> str:
    name = re.sub(r"^layers\.(\d{1,3})\.blocks\.", lambda m: f"features.{2 * int(m[1])}.", name)
    name = re.sub(
        r"^layers\.(\d{1,3})\.downsample\.", lambda m: f"features.{2 * int(m[1]) + 1}.", name
    )
    return name.replace(".mlp.fc1.", ".mlp.0.").replace(".mlp.fc2.", ".mlp.3.")
