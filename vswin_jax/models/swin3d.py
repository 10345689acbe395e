"""Video Swin Transformer (Liu et al., CVPR 2022) as a pure Flax Linen module."""

import functools
from dataclasses import fields

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Float32, PRNGKeyArray, PyTree

from vswin_jax import attention, kernels
from vswin_jax.attention import ClipSharding, Size
from vswin_jax.errors import unknown_name
from vswin_jax.models.attention_registry import REFERENCE, parse_attention_layer
from vswin_jax.models.clip_check import check_clips
from vswin_jax.models.heads import head, pool
from vswin_jax.models.initial_draws import draw_together
from vswin_jax.models.norm import LayerNorm
from vswin_jax.models.patches import PatchEmbed
from vswin_jax.models.settings import KERNEL_INITS, BlockSettings
from vswin_jax.models.stage import REMAT, TOKEN_ORDERS, Stage
from vswin_jax.sharding.constraints import constrain


class SwinTransformer3D(nn.Module):
    """Video Swin Transformer; build it with `create_model`.

    Attributes:
      embed_dim: Channels after the patch embedding; they double at each patch merging.
      depths: The number of blocks of each stage.
      num_heads: The number of attention heads of each stage.
      num_classes: The number of outputs of the head; 0 for no head.
      patch_size: (time, height, width) of a patch, in frames and pixels.
      window_size: (time, height, width) of a window, in tokens.
      patch_norm: True for a LayerNorm after the patch embedding.
      mlp_ratio: The ratio of the hidden channels of an MLP to its input channels.
      qkv_bias: True for a bias in the query, key and value projection.
      qk_scale: The factor on the queries; None is (channels / heads) ** -0.5.
      drop_rate: The dropout rate after the patch embedding, projections and MLP layers.
      attn_drop_rate: The dropout rate of attention weights.
      drop_path_rate: The stochastic depth rate of the last block; it grows linearly from 0 at the
        first.
      head_dropout_rate: The dropout rate before the classifier.
      frozen_stages: -1 freezes nothing, 0 the patch embedding, n also the first n stages.
      remat: The activations of a block that the backward pass computes again to save memory, from
        nothing to all: "none"; "attention", logits and softmax; "dots", all but the outputs of
        linear layers and attention; "mlp", all but queries, keys, values and the output of
        attention; "block", all but the input.
      relative_position: "reference" or "exact", see `attention.WindowGeometry.bias`.
      attention: The implementation of attention, see `attention.window_attention`.
      attention_layer: A registered attention layer with its options, such as "cosine(scale=50)";
        "reference" is that of the paper. See `attention_registry`.
      tokenwise: The implementation of the other layers, one of `kernels.IMPLEMENTATIONS`.
      kernel_init: The initialisation of linear layers: "reference" (normal, 0.02), or "lecun" for
        narrow models that are trained from scratch.
      token_order: The order of the tokens between blocks: "windows" is window order, "map" is
        raster order.
      dtype: The compute dtype.
      clip_sharding: The devices that share each clip; None where each clip is on one device.
    """

    embed_dim: int
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    num_classes: int = 400
    patch_size: Size = (2, 4, 4)
    window_size: Size = (8, 7, 7)
    patch_norm: bool = True
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    qk_scale: float | None = None
    drop_rate: float = 0.0
    attn_drop_rate: float = 0.0
    drop_path_rate: float = 0.2
    head_dropout_rate: float = 0.5
    frozen_stages: int = -1
    remat: str = "none"
    relative_position: str = "reference"
    attention: str = "auto"
    attention_layer: str = REFERENCE
    tokenwise: str = "auto"
    kernel_init: str = "reference"
    token_order: str = "windows"
    dtype: DTypeLike = jnp.float32
    clip_sharding: ClipSharding | None = None

    def setup(self) -> None:
        """Declare the layers under the names of the released checkpoints."""
        self.check_names()
        self.patch_embed = PatchEmbed(
            self.embed_dim, self.patch_size, self.patch_norm, self._settings(), name="patch_embed"
        )
        self.pos_drop = nn.Dropout(self.drop_rate)
        rates = np.split(
            np.linspace(0, self.drop_path_rate, sum(self.depths)), np.cumsum(self.depths)[:-1]
        )
        self.layers = [self._stage(index, rates[index]) for index in range(len(self.depths))]
        self.norm = LayerNorm(self.dtype, name="norm")
        self.head_drop = nn.Dropout(self.head_dropout_rate)
        if self.num_classes:
            self.head = head(self.num_classes, "head")

    @nn.nowrap
    def check_names(self) -> None:
        """Check the settings that name a choice.

        Raises:
          InputError: A choice does not exist; the message lists those that do.
        """
        for field, kind, known in (
            ("remat", "remat policy", REMAT),
            ("relative_position", "relative position", ("reference", "exact")),
            ("attention", "attention implementation", ("auto", *attention.IMPLEMENTATIONS)),
            ("tokenwise", "tokenwise implementation", kernels.IMPLEMENTATIONS),
            ("kernel_init", "kernel initialisation", KERNEL_INITS),
            ("token_order", "token order", TOKEN_ORDERS),
        ):
            if getattr(self, field) not in known:
                raise unknown_name(kind, getattr(self, field), known, field)
        parse_attention_layer(self.attention_layer)

    def _settings(self) -> BlockSettings:
        names = {field.name for field in fields(BlockSettings)} - {"recompute_attention"}
        shared = {name: getattr(self, name) for name in names}
        if self.is_initializing():
            # Parameters depend neither on the size of the clip, which is a single patch here, nor
            # on the attention implementation, which may not run on the devices that initialise.
            shared |= {"clip_sharding": None, "attention": "auto"}
        return BlockSettings(**shared, recompute_attention=self.remat == "attention")

    def _stage(self, index: int, rates: np.ndarray) -> Stage:
        return Stage(
            num_heads=self.num_heads[index],
            drop_path_rates=tuple(map(float, rates)),
            merges=index + 1 < len(self.depths),
            remat=self.remat,
            settings=self._settings(),
            name=f"layers_{index}",
        )

    @nn.nowrap
    def check_clip(self, size: Size) -> None:
        """Check that a clip of `size` (frames, height, width) can be split over its devices.

        Raises:
          InputError: The clip cannot be split; the message names sizes that can.
        """
        if self.clip_sharding:
            merges = len(self.depths) - 1
            self.clip_sharding.check(size, self.patch_size, self.window_size, merges)

    def features(
        self, clips: Float[Array | np.ndarray, "B T H W 3"], train: bool = False
    ) -> dict[str, Float[Array, "B _ _ _ _"]]:
        """Return every feature map of the network for normalised clips.

        Returns:
          `[B, D, H, W, C]` arrays: `patch_embed`; for each stage I, counted from 0,
          `stageI_before_merge` and `stageI_after_merge` (the same array for the last stage, which
          has no merge); `final`, the last feature map after the final LayerNorm.

        Raises:
          InputError: The array is no batch of normalised clips; the message has the remedy.
        """
        check_clips(clips.shape, clips.dtype)
        if self.clip_sharding and not self.is_initializing():
            self.check_clip(clips.shape[1:4])
            clips = self.clip_sharding.constrain(clips)
        x = self.patch_embed(clips)
        if self.frozen_stages >= 0:
            x = jax.lax.stop_gradient(x)
        maps = {"patch_embed": x}
        x = self.pos_drop(x, deterministic=not train or self.frozen_stages >= 1)
        for index, stage in enumerate(self.layers):
            frozen = index < self.frozen_stages
            before, x = stage(x, train and not frozen)
            if frozen:
                x = jax.lax.stop_gradient(x)
            maps |= {f"stage{index}_before_merge": before, f"stage{index}_after_merge": x}
        return maps | {"final": self.norm(x)}

    def __call__(
        self, clips: Float[Array | np.ndarray, "B T H W 3"], train: bool = False
    ) -> Float32[Array, "B K"]:
        """Return the logits of normalised clips, or pooled features if `num_classes` is 0.

        T, H and W may have any size. In training pass `rngs={"dropout": key}`.
        """
        pooled = constrain(pool(self.features(clips, train)["final"]), "batch", "channels")
        if not self.num_classes:
            return pooled
        logits = self.head(self.head_drop(pooled, deterministic=not train))
        return constrain(logits, "batch", "classes")


def is_frozen(path: str, frozen_stages: int) -> bool:
    """Return True if the parameter at `path` ("layers_0/blocks_1/attn/qkv/kernel") is frozen."""
    module = path.split("/")[0]
    if module == "patch_embed":
        return frozen_stages >= 0
    return module.startswith("layers_") and int(module.removeprefix("layers_")) < frozen_stages


def init_params(
    model: SwinTransformer3D, key: PRNGKeyArray, *, together: bool = True
) -> PyTree[Float32[Array, "..."]]:
    """Initialise the parameters, in float32; they do not depend on the size of the clips.

    With `together` all values are drawn in one loop, which compiles much faster; without it each
    array is drawn where its shards are, so that no device holds more. The values are the same.
    """
    if isinstance(model, SwinTransformer3D):
        # `draw_together` cannot postpone what is drawn within a rematerialised block.
        model = model.clone(remat="none")
    return _init(model, key, together)


@functools.partial(jax.jit, static_argnums=(0, 2))
def _init(model: SwinTransformer3D, key: PRNGKeyArray, together: bool) -> PyTree:
    clips = jnp.zeros((1, *model.patch_size, 3))
    if not together:
        return model.init(key, clips)["params"]
    return draw_together(lambda: model.init(key, clips)["params"])
