"""Detects the layout of a Swin checkpoint by its keys, and converts to and from canonical names.

A layout is the set of parameter names of one library. Canonical names are those of the original
Video Swin checkpoints without the `backbone.` prefix and the index buffers, such as
`layers.0.blocks.0.attn.qkv.weight`, `norm.weight` and `head.weight`.
"""

import re
from collections.abc import Iterable, Mapping

import numpy as np

from vswin_jax.errors import InputError, join_some, unknown_name
from vswin_jax.weights.layouts.rename_rules import rename, rename_rules

LAYOUTS_3D = ("original", "mmaction2", "torchvision")
LAYOUTS_2D = ("microsoft", "timm", "huggingface", "huggingface_memory", "torchvision_2d")

# Index and mask buffers, which are recomputed, mmengine's pixel means and deviations, the counts of
# thop, and what a module keeps as its extra state.
_BUFFER = re.compile(
    r"(^|\.)(relative_position_index|attn_mask|total_ops|total_params|_extra_state)$"
    r"|^data_preprocessor\."
)

# Separate tensors for queries, keys and values, which are joined to one `qkv`.
_PART = re.compile(r"\.attn\.(query|key|value|[qkv]_proj)\.(weight|bias)$")
_PARTS = (("query", "key", "value"), ("q_proj", "k_proj", "v_proj"))

# A name that matches the pattern shows that a state_dict has the layout. The first match counts.
_LAYOUT_PATTERNS = {
    "huggingface_memory": r"encoder\.layers\..*\.attention\.q_proj\.",
    "huggingface": r"encoder\.layers\..*\.attention\.self\.query\.",
    "torchvision_2d": r"^features\.0\.0\.weight$",
    "torchvision": r"^features\.\d+\.\d+\.attn\.",
}


def detect_layout(state: Mapping[str, np.ndarray]) -> str:
    """Return the layout of a state_dict, from its keys and the rank of its patch kernel.

    Raises:
      InputError: the keys are those of no supported layout.
    """
    names = set(state)
    if _any_match(names, r"\.attn\.(logit_scale|cpb_mlp\.)"):
        raise InputError(
            "The checkpoint is of a Swin V2, which has a different attention: give a Swin V1."
        )
    for layout, pattern in _LAYOUT_PATTERNS.items():
        if _any_match(names, pattern):
            return layout
    names = {name.removeprefix("backbone.") for name in names}
    if not _any_match(names, r"^layers\.\d+\.blocks\.\d+\.attn\."):
        raise _unknown_layout(state)
    return _detect_by_kernel(state, names)


def _any_match(names: Iterable[str], pattern: str) -> bool:
    return any(re.search(pattern, name) for name in names)


def _detect_by_kernel(state: Mapping[str, np.ndarray], names: set[str]) -> str:
    """Return one of the four layouts whose blocks have the original names."""
    kernel = next((state[name] for name in state if name.endswith("patch_embed.proj.weight")), None)
    axes = np.ndim(kernel) if kernel is not None else 0
    if axes == 5:
        return "mmaction2" if _any_match(names, r"^norm\d\.") else "original"
    if axes != 4:
        raise _unknown_layout(state)
    if _any_match(names, r"^layers\.0\.downsample\."):
        return "microsoft"
    return "timm" if _any_match(names, r"^(layers\.\d+\.downsample|head\.fc)\.") else "microsoft"


def _unknown_layout(state: Mapping[str, np.ndarray]) -> InputError:
    shown = join_some([*map(repr, state)], 4) or "nothing"
    known = ", ".join((*LAYOUTS_3D, *LAYOUTS_2D))
    return InputError(
        f"The checkpoint holds {shown}, which are not the tensors of a whole Swin: give one "
        f"in a supported layout ({known})."
    )


def source_names(
    state: Mapping[str, np.ndarray], layout: str | None = None
) -> dict[str, tuple[str, ...]]:
    """Return the name in `state` for each canonical name, without buffers.

    Separate queries, keys and values give three names. A name without a rule stays as it is.

    Raises:
      InputError: the layout is unknown, or two names of `state` mean the same tensor.
    """
    rules = rename_rules(layout or detect_layout(state), state)
    names: dict[str, str] = {}
    for name in (name for name in state if not _BUFFER.search(name)):
        canonical = rename(name, rules)
        if canonical in names:
            raise InputError(
                f"The checkpoint has {names[canonical]!r} and {name!r}, which are both "
                f"{canonical!r}: remove one of them."
            )
        names[canonical] = name
    return _join_qkv(names)


def _join_qkv(names: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Replace complete triples of queries, keys and values by one `qkv`, in the same order."""
    joined = {}
    for name, source_name in names.items():
        match = _PART.search(name)
        parts = next((p for p in _PARTS if match and match[1] in p), ())
        siblings = [name.replace(match[0], f".attn.{part}.{match[2]}") for part in parts]
        qkv = name.replace(match[0], f".attn.qkv.{match[2]}") if match else name
        if parts and qkv not in names and all(sibling in names for sibling in siblings):
            joined[qkv] = tuple(names[sibling] for sibling in siblings)
        else:
            joined[name] = (source_name,)
    return joined


def to_canonical(
    state: Mapping[str, np.ndarray], layout: str | None = None
) -> dict[str, np.ndarray]:
    """Return a state_dict of any layout with canonical names and without its buffers.

    The values are the arrays of `state` itself, except that separate queries, keys and values are
    joined. A name without a rule stays as it is.

    Args:
      state: a state_dict.
      layout: one of `LAYOUTS_3D` or `LAYOUTS_2D`; None detects it.

    Raises:
      InputError: the layout is unknown, or does not fit.
    """
    names = source_names(state, layout)
    return {name: _joined_value(state, parts) for name, parts in names.items()}


def _joined_value(state: Mapping[str, np.ndarray], names: tuple[str, ...]) -> np.ndarray:
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
    """Convert a canonical 3D state_dict, with or without index buffers, to one of `LAYOUTS_3D`.

    Raises:
      InputError: any other layout; those of image models cannot be written.
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
