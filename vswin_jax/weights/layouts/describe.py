"""What model a state_dict is of, read from the shapes of its tensors alone."""

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

# Windows in use; of the shapes that explain a table, these come first.
_KNOWN_WINDOWS = (
    *((depth, 7, 7) for depth in (8, 16, 2, 4, 32)),
    *((depth, 12, 12) for depth in (8, 16, 2, 4)),
)


@dataclass(frozen=True)
class Description:
    """A Swin as its tensors show it.

    Attributes:
      embed_dim: channels after the patch embedding.
      depths: blocks of each stage.
      num_heads: attention heads of each stage.
      patch_size: (time, height, width) in frames and pixels; (height, width) of an image model.
      window: (time, height, width) in tokens; (height, width) of an image model, and then the
        largest where the stages differ.
      num_classes: outputs of the head; 0 for none.
      qkv_bias: whether the query, key and value projection has a bias.
      patch_norm: whether a LayerNorm follows the patch embedding.
      mlp_ratio: hidden channels of an MLP over its input's.
      is_2d: whether it is an image model.
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
        """Which of `VARIANTS` it is, or None."""
        own = Variant(self.embed_dim, self.depths, self.num_heads)
        return next((name for name, variant in VARIANTS.items() if variant == own), None)

    def model_overrides(self, patch_frames: int = 2, window_frames: int = 8) -> dict[str, object]:
        """The arguments of `create_model` for this model.

        An image model has no time: `patch_frames` and `window_frames` are what its patches and
        windows are to span. With 1 and 1 it is the image model itself.
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
    index_tokens: int | None = None,
    window_size: tuple[int, ...] | None = None,
) -> Description:
    """The model of a canonical state_dict, 3D or 2D.

    Args:
      state: names as `layouts.to_canonical` gives them.
      index_tokens: tokens of a window if known, see `index_tokens`; they decide between windows
        whose tables have as many rows.
      window_size: the window if known; otherwise it is found, with as much height as width.

    Raises:
      InputError: a tensor that tells is missing or of no possible shape, or several windows fit.
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
        window=_window(rows, is_2d, index_tokens, window_size),
        num_classes=head.shape[0] if np.ndim(head) == 2 else 0,
        qkv_bias="layers.0.blocks.0.attn.qkv.bias" in state,
        patch_norm="patch_embed.norm.weight" in state,
        mlp_ratio=fc1.shape[0] / fc1.shape[1],
        is_2d=is_2d,
    )


def index_tokens(state: Mapping[str, np.ndarray]) -> int | None:
    """Tokens of a window by the index buffers of a state_dict of any layout; None without any.

    The buffer is `[N, N]`, or flat in torchvision's image models. Where stages differ, the most.
    """
    sizes = [v.size for name, v in state.items() if name.endswith("relative_position_index")]
    return math.isqrt(max(sizes)) if sizes else None


def window_of_rows(rows: int, tokens: int | None = None) -> tuple[int, int, int]:
    """The 3D window, as high as wide, of a bias table of `rows` = (2d-1)(2h-1)(2h-1).

    Several may fit. The one with `tokens` is taken if that is given, else one in use, else the
    only one that is wider than one token.

    Raises:
      InputError: none fits, or several do.
    """
    fitting = [
        ((rows // side**2 + 1) // 2, (side + 1) // 2, (side + 1) // 2)
        for side in range(1, math.isqrt(rows) + 1, 2)
        if rows % 2 and rows % side**2 == 0
    ]
    if tokens is not None:
        fitting = [window for window in fitting if math.prod(window) == tokens]
    known = [window for window in _KNOWN_WINDOWS if window in fitting]
    wide = [window for window in fitting if window[1] > 1]
    for choice in (known[:1], wide, fitting):
        if len(choice) == 1:
            return choice[0]
    raise _no_window(rows, wide or fitting)


def _no_window(rows: int, fitting: list[tuple[int, int, int]]) -> InputError:
    fit = " or ".join(map(str, fitting)) or "no window as high as wide"
    return InputError(
        f"The bias tables have {rows} rows, which fit {fit}: say the model's window, (time, "
        f"height, width) in tokens, as window_size=(8, 7, 7) or --window 8,7,7."
    )


def _window(
    rows: int, is_2d: bool, tokens: int | None, given: tuple[int, ...] | None
) -> tuple[int, ...]:
    if given is not None:
        if math.prod(2 * extent - 1 for extent in given) != rows or len(given) != 3 - is_2d:
            raise InputError(
                f"The bias tables have {rows} rows, which are not those of windows of "
                f"{tuple(given)}: give the window that the checkpoint was trained with."
            )
        return tuple(given)
    if not is_2d:
        return window_of_rows(rows, tokens)
    side = math.isqrt(rows)
    if side**2 != rows or side % 2 == 0:
        raise InputError(
            f"The bias tables have {rows} rows, which fit no square window of an image model: say "
            f"the window, (height, width) in tokens, as window_size=(7, 7)."
        )
    return ((side + 1) // 2,) * 2


def _depths(state: Mapping[str, np.ndarray]) -> tuple[int, ...]:
    """Blocks of each stage; stages and blocks are to be numbered from 0 without a gap."""
    blocks = {(int(m[1]), int(m[2])) for name in state if (m := _BLOCK.match(name))}
    counts = Counter(stage for stage, _ in blocks)
    depths = tuple(counts[stage] for stage in range(1 + max(counts, default=0)))
    for stage, depth in enumerate(depths):
        for block in range(max(depth, 1)):
            if (stage, block) not in blocks:
                raise InputError(
                    f"The checkpoint has no layers.{stage}.blocks.{block}: give a whole checkpoint "
                    f"of a Swin."
                )
    return depths


def _tensor(state: Mapping[str, np.ndarray], name: str, axes: tuple[int, ...]) -> np.ndarray:
    value = state.get(name)
    if value is None or value.ndim not in axes or 0 in value.shape:
        came = "it is missing" if value is None else f"its shape is {value.shape}"
        wanted = " or ".join(map(str, axes))
        raise InputError(
            f"The checkpoint's {name} should have {wanted} axes, but {came}: give a whole "
            f"checkpoint of a Swin."
        )
    return value
