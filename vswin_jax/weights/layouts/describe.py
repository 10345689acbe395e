"""Infers the architecture of a model from the shapes of its tensors."""

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from vswin_jax.errors import InputError
from vswin_jax.models.variants import VARIANTS, Variant

_BLOCK = re.compile(r"^layers\.(\d{1,3})\.blocks\.(\d{1,3})\.")
_TABLE = "attn.relative_position_bias_table"

# Windows of published models. They have priority among the windows that fit a table.
_KNOWN_WINDOWS = (
    *((depth, 7, 7) for depth in (8, 16, 2, 4, 32)),
    *((depth, 12, 12) for depth in (8, 16, 2, 4)),
)


@dataclass(frozen=True)
class Description:
    """The architecture of a Swin.

    Attributes:
      embed_dim: channels after the patch embedding.
      depths: blocks of each stage.
      num_heads: attention heads of each stage.
      patch_size: (time, height, width) in frames and pixels; (height, width) of an image model.
      window: (time, height, width) in tokens; (height, width) of an image model. If the stages
        differ, the largest.
      num_classes: outputs of the head; 0 without a head.
      qkv_bias: True if the query, key and value projection has a bias.
      patch_norm: True if a LayerNorm follows the patch embedding.
      mlp_ratio: ratio of the hidden channels of an MLP to its input channels.
      is_2d: True for an image model.
    """

    embed_dim: int
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    patch_size: tuple[int, ...]
    window: tuple[int, ...]
    num_classes: int
    qkv_bias: bool
    patch_norm: bool
    mlp_ratio: float
    is_2d: bool

    @property
    def variant(self) -> str | None:
        """The key in `VARIANTS` of this architecture, or None."""
        own = Variant(self.embed_dim, self.depths, self.num_heads)
        return next((name for name, variant in VARIANTS.items() if variant == own), None)

    def model_overrides(self, patch_frames: int = 2, window_frames: int = 8) -> dict[str, object]:
        """Return the arguments of `create_model` for this model.

        `patch_frames` and `window_frames` are the temporal sizes of a video model made from an
        image model; 1 and 1 give the image model itself. For a video model they are unused.
        """
        return {
            "name": self.variant or "swin_tiny",
            "num_classes": self.num_classes,
            "embed_dim": self.embed_dim,
            "depths": self.depths,
            "num_heads": self.num_heads,
            "patch_size": (patch_frames, *self.patch_size) if self.is_2d else self.patch_size,
            "window_size": (window_frames, *self.window) if self.is_2d else self.window,
            "qkv_bias": self.qkv_bias,
            "patch_norm": self.patch_norm,
            "mlp_ratio": self.mlp_ratio,
        }


def describe(
    state: Mapping[str, np.ndarray],
    *,
    window_tokens: int | None = None,
    window_size: tuple[int, ...] | None = None,
) -> Description:
    """Infer the architecture of a canonical 3D or 2D state_dict.

    An unknown `window_size` is inferred, with equal height and width. The number of tokens in a
    window, if known (see `count_window_tokens`), decides between several that fit.

    Raises:
      InputError: a required tensor is missing or has an impossible shape, or several windows fit.
    """
    kernel = _tensor(state, "patch_embed.proj.weight", (4, 5))
    is_2d = kernel.ndim == 4
    depths = _depths(state)
    tables = [_tensor(state, f"layers.{i}.blocks.0.{_TABLE}", (2,)) for i in range(len(depths))]
    fc1 = _tensor(state, "layers.0.blocks.0.mlp.fc1.weight", (2,))
    head = state.get("head.weight")
    rows = max(table.shape[0] for table in tables)
    return Description(
        embed_dim=kernel.shape[0],
        depths=depths,
        num_heads=tuple(table.shape[1] for table in tables),
        patch_size=kernel.shape[2:],
        window=_find_window(rows, is_2d, window_tokens, window_size),
        num_classes=head.shape[0] if np.ndim(head) == 2 else 0,
        qkv_bias="layers.0.blocks.0.attn.qkv.bias" in state,
        patch_norm="patch_embed.norm.weight" in state,
        mlp_ratio=fc1.shape[0] / fc1.shape[1],
        is_2d=is_2d,
    )


def count_window_tokens(state: Mapping[str, np.ndarray]) -> int | None:
    """Return the number of tokens in the largest window of a raw state_dict's index buffers.

    A buffer is `[N, N]`, or `[N * N]` in torchvision's image models. Without buffers it is None.
    """
    sizes = [v.size for name, v in state.items() if name.endswith("relative_position_index")]
    return math.isqrt(max(sizes)) if sizes else None


def infer_window(rows: int, tokens: int | None = None) -> tuple[int, int, int]:
    """Return the 3D window (d, h, h) of a bias table of `rows` = (2d-1)(2h-1)(2h-1).

    Of several that fit, the result is the one with the given number of tokens, else the published
    one, else the only one that is wider than one token.

    Raises:
      InputError: no window fits, or several do.
    """
    fitting = _fitting_windows(rows)
    if tokens is not None:
        fitting = [window for window in fitting if math.prod(window) == tokens]
    known = [window for window in _KNOWN_WINDOWS if window in fitting]
    wide = [window for window in fitting if window[1] > 1]
    for choice in (known[:1], wide, fitting):
        if len(choice) == 1:
            return choice[0]
    raise _ambiguous_window(rows, wide or fitting)


def _fitting_windows(rows: int) -> list[tuple[int, int, int]]:
    """Return every window (d, h, h) with rows = (2d-1)(2h-1)(2h-1)."""
    return [
        ((rows // side**2 + 1) // 2, (side + 1) // 2, (side + 1) // 2)
        for side in range(1, math.isqrt(rows) + 1, 2)
        if rows % 2 and rows % side**2 == 0
    ]


def _ambiguous_window(rows: int, fitting: list[tuple[int, int, int]]) -> InputError:
    fit = " or ".join(map(str, fitting)) or "no window of equal height and width"
    return InputError(
        f"The bias tables have {rows} rows, which fit {fit}: give the model's window, (time, "
        f"height, width) in tokens, as window_size=(8, 7, 7) or --window 8,7,7."
    )


def _find_window(
    rows: int, is_2d: bool, tokens: int | None, window_size: tuple[int, ...] | None
) -> tuple[int, ...]:
    if window_size is not None:
        expected_rows = math.prod(2 * extent - 1 for extent in window_size)
        if expected_rows != rows or len(window_size) != 3 - is_2d:
            raise InputError(
                f"The bias tables have {rows} rows, which are not those of windows of "
                f"{tuple(window_size)}: give the window that the checkpoint was trained with."
            )
        return tuple(window_size)
    if not is_2d:
        return infer_window(rows, tokens)
    side = math.isqrt(rows)
    if side**2 != rows or side % 2 == 0:
        raise InputError(
            f"The bias tables have {rows} rows, which fit no square window of an image model: give "
            f"the window, (height, width) in tokens, as window_size=(7, 7)."
        )
    return ((side + 1) // 2,) * 2


def _depths(state: Mapping[str, np.ndarray]) -> tuple[int, ...]:
    """Return the number of blocks of each stage; the numbering must have no gap."""
    blocks = {(int(m[1]), int(m[2])) for name in state if (m := _BLOCK.match(name))}
    counts = Counter(stage for stage, _ in blocks)
    depths = tuple(counts[stage] for stage in range(1 + max(counts, default=0)))
    for stage, depth in enumerate(depths):
        for block in range(max(depth, 1)):
            if (stage, block) not in blocks:
                raise InputError(
                    f"The checkpoint has no layers.{stage}.blocks.{block}: give a complete "
                    f"checkpoint of a Swin."
                )
    return depths


def _tensor(state: Mapping[str, np.ndarray], name: str, axes: tuple[int, ...]) -> np.ndarray:
    value = state.get(name)
    if value is None or value.ndim not in axes or 0 in value.shape:
        found = "it is missing" if value is None else f"its shape is {value.shape}"
        expected = " or ".join(map(str, axes))
        raise InputError(
            f"The checkpoint's {name} should have {expected} axes, but {found}: give a complete "
            f"checkpoint of a Swin."
        )
    return value
