"""Finds the Swins among the names of a file's tensors, under any wrappers.

A trunk is a Swin without its head. Its prefix is all that comes before its names in the file, such
as `model.backbone.`; it is found by the names that follow it, so any wrapper and attribute of a
user's class may be in it.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

# DistributedDataParallel, torch.compile, FSDP, checkpointing of activations and Lightning's Fabric
# put these components before the names of a model or of one of its modules.
_WRAPPERS = frozenset(
    ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module")
)

# The patch embedding of each family of layouts, and the prefix that its own names have in files of
# the library, which the rename rules remove.
_PATCHES = {
    r"patch_embed\.proj": "backbone.",
    r"embeddings\.patch_embeddings\.projection": "swin.",
    r"features\.0\.0": "",
}
_PATCH = re.compile(rf"((?:.+\.)?)({'|'.join(_PATCHES)})\.weight")
_BLOCK = re.compile(r"(encoder\.)?layers\.\d+\.blocks\.\d+\.|features\.\d+\.\d+\.attn\.")
_FEATURES = re.compile(r"features\.\d")
_TRUNK = re.compile(
    r"(patch_embed|layers|norm\d*|embeddings|encoder|layernorm|features|absolute_pos_embed)\b"
)
_FINAL_NORM = re.compile(r"(norm\d*|layernorm)\.weight")

# Heads that the rename rules know, and heads that users' classes have.
_KNOWN_HEAD = re.compile(r"(head|head\.fc|cls_head\.fc_cls|classifier)\.(weight|bias)")
_ANY_HEAD = re.compile(
    r"((?:head|head\.fc|cls_head|cls_head\.fc_cls|classifier|classification_head|fc|fc_cls|linear)"
    r"(?:\.\d+)?)\.(weight|bias)"
)
# Names of heads that are looked for if there is none of those; a projection is no classifier.
_RARE_HEAD = re.compile(
    r"((?!\w*proj)(?:(?:\w+_)?(?:head|classifier|fc|logits)|fc_cls|linear|cls|classify|output|out"
    r"|predictor|last_layer)(?:\.(?:\d+|fc|fc_cls|linear|net|mlp|layers|out)){0,2})"
    r"\.(weight|bias)"
)

# More Swins than any file has; a limit, because each is compared with every name.
_MAX_TRUNKS = 32

# Names for averaged weights, and for weights that are averaged over the steps of another model.
_AVERAGED = re.compile(
    r"(^|[_\W])(ema|avg|average|averaged|averaging|swa|momentum|teacher|shadow|target|polyak)"
    r"([_\W\d]|$)"
    r"|^(encoder_k|key_encoder)$",
    re.IGNORECASE,
)
# The ends of words in `modelEMA`, `EMAmodel`, `ModelEmaV2` and `MeanTeacher`.
_WORD_END = re.compile(r"(?<![A-Z])EMA(?=[a-z])|(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
# Names for the trained weights, in order of preference.
CONVENTIONAL = (
    "state_dict",
    "model",
    "model_state",
    "model_state_dict",
    "module",
    "net",
    "params",
    "weights",
    "student",
)


@dataclass(frozen=True)
class Trunk:
    """A Swin among the names of a file.

    Attributes:
      prefix: all that comes before its names.
      own: the end of the prefix that belongs to its layout, such as `backbone.`, or "".
      anchor: the name of its patch embedding.
    """

    prefix: str
    own: str
    anchor: str

    @property
    def wrapper(self) -> str:
        """The prefix without the part that belongs to the layout."""
        return self.prefix.removesuffix(self.own)


def strip_wrappers(name: str) -> str:
    """Remove the components that wrappers of PyTorch put before and inside a dotted name."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def wrappers_in(name: str) -> list[str]:
    """Return the components of a dotted name that `strip_wrappers` removes, each once."""
    return list(dict.fromkeys(part for part in name.split(".") if part in _WRAPPERS))


def find_trunks(names: Iterable[str]) -> list[Trunk]:
    """Return the trunks among names without wrappers, in the order of the names."""
    names = list(names)
    anchors = [match for name in names if (match := _PATCH.fullmatch(name))][:_MAX_TRUNKS]
    trunks = {}
    for match in anchors:
        prefix = match[1]
        inner = [name[len(prefix) :] for name in names if name.startswith(prefix)]
        if any(_BLOCK.match(name) for name in inner):
            own = _own_prefix(match[2], inner)
            own = own if f".{prefix}".endswith(f".{own}") else ""
            trunks.setdefault(prefix, Trunk(prefix, own, match[0]))
    return list(trunks.values())


def _own_prefix(patch: str, inner: Sequence[str]) -> str:
    """Return the prefix of the library's own names, for a patch embedding of this name."""
    # The video models of torchvision have the patch embedding of the original ones.
    if any(_FEATURES.match(name) for name in inner):
        return ""
    return next(own for pattern, own in _PATCHES.items() if re.fullmatch(pattern, patch))


def is_trunk_name(name: str) -> bool:
    """Return True for a name that a trunk has after its prefix."""
    return _TRUNK.match(name) is not None


def choose_trunks(trunks: Sequence[Trunk]) -> list[Trunk]:
    """Return the trunks with the best claim to be the trained model; several are ambiguous.

    Averaged weights count only if there are no others. Of several others, one that is not inside
    another name comes first, then one with a conventional name, in the order of `CONVENTIONAL`.
    """
    parts = {trunk: trunk.wrapper.split(".")[:-1] for trunk in trunks}
    shared = _shared_length(list(parts.values()))
    own = {trunk: part[shared:] for trunk, part in parts.items()}
    raw = [trunk for trunk in trunks if not any(map(_is_averaged, own[trunk]))] or list(trunks)
    ranks = {trunk: _rank(own[trunk]) for trunk in raw}
    best = min(ranks.values())
    return [trunk for trunk in raw if ranks[trunk] == best]


def _is_averaged(component: str) -> bool:
    return _AVERAGED.search(_WORD_END.sub(r"\g<0>_", component)) is not None


def select_trunks(trunks: Sequence[Trunk], prefix: str) -> list[Trunk]:
    """Return the trunks whose prefix has the components of `prefix`, such as `ema.` or `a.b`."""
    wanted = f".{strip_wrappers(prefix).strip('.')}."
    return [trunk for trunk in trunks if wanted in f".{trunk.prefix}"]


def _shared_length(parts: Sequence[Sequence[str]]) -> int:
    """Return the number of leading components that all of `parts` have in common."""
    columns = zip(*parts, strict=False)
    return next(
        (index for index, column in enumerate(columns) if len(set(column)) > 1),
        min(map(len, parts)),
    )


def _rank(components: Sequence[str]) -> int:
    if not components:
        return -1
    known = components[0] in CONVENTIONAL
    return CONVENTIONAL.index(components[0]) if known else len(CONVENTIONAL)


def find_head(
    shapes: Mapping[str, tuple[int, ...]], trunk: Trunk, others: Sequence[Trunk]
) -> dict[str, str]:
    """Return the names of the head that a user's class has beside or around a trunk.

    A head that the rename rules know needs no search, and gives {}. Any other one is recognised by
    its name and by the width of the trunk.

    Args:
      shapes: the shape of each tensor, by name without wrappers.
      trunk: the trunk.
      others: the other trunks of the file, whose heads are not looked for.

    Returns:
      `head.weight` and `head.bias` by their name in `shapes`; {} if there is none, or several.
    """
    if any(_is_known_head(name, trunk) for name in shapes):
        return {}
    return _find_head(shapes, trunk, others, _ANY_HEAD) or _find_head(
        shapes, trunk, others, _RARE_HEAD
    )


def _find_head(
    shapes: Mapping[str, tuple[int, ...]],
    trunk: Trunk,
    others: Sequence[Trunk],
    pattern: re.Pattern[str],
) -> dict[str, str]:
    """Return the names of the only linear layer of this pattern, in the closest module with one."""
    width = _final_width(shapes, trunk.prefix)
    for outer in _ancestors(trunk.prefix):
        if outer != trunk.prefix and any(other.prefix.startswith(outer) for other in others):
            return {}
        modules = _linear_modules(shapes, outer, pattern)
        fitting = [module for module, size in modules.items() if size == width]
        if len(fitting) == len(modules) == 1:
            leaves = (f"{outer}{fitting[0]}.{leaf}" for leaf in ("weight", "bias"))
            return {name: f"head.{name.rpartition('.')[2]}" for name in leaves if name in shapes}
    return {}


def _is_known_head(name: str, trunk: Trunk) -> bool:
    own = name[len(trunk.wrapper) :].removeprefix(trunk.own)
    return name.startswith(trunk.wrapper) and _KNOWN_HEAD.fullmatch(own) is not None


def _final_width(shapes: Mapping[str, tuple[int, ...]], prefix: str) -> int | None:
    """Return the channels of the trunk's last LayerNorm; None without one."""
    sizes = [
        shape[0]
        for name, shape in shapes.items()
        if name.startswith(prefix) and _FINAL_NORM.fullmatch(name[len(prefix) :])
        if len(shape) == 1
    ]
    return max(sizes, default=None)


def _ancestors(prefix: str) -> Iterable[str]:
    """Yield `a.b.`, `a.` and "" for `a.b.`."""
    parts = prefix.split(".")[:-1]
    for length in range(len(parts), -1, -1):
        yield "".join(f"{part}." for part in parts[:length])


def _linear_modules(
    shapes: Mapping[str, tuple[int, ...]], outer: str, pattern: re.Pattern[str]
) -> dict[str, int]:
    """Return the input channels of each linear layer of a head right under the prefix `outer`."""
    return {
        match[1]: shape[1]
        for name, shape in shapes.items()
        if name.startswith(outer) and (match := pattern.fullmatch(name[len(outer) :]))
        if match[2] == "weight" and len(shape) == 2
    }
