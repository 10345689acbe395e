"""Video Swin Transformer (Liu et al., CVPR 2022): the whole network, pure and in Flax Linen."""

from dataclasses import fields

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from vswin_jax import attention, kernels
from vswin_jax.attention import ClipSharding, Size
from vswin_jax.errors import unknown_name
from vswin_jax.models.heads import head, pool
from vswin_jax.models.norm import LayerNorm
from vswin_jax.models.patches import PatchEmbed
from vswin_jax.models.settings import KERNEL_INITS, BlockSettings
from vswin_jax.models.stage import REMAT, TOKEN_ORDERS, Stage
from vswin_jax.sharding.constraints import pin


class SwinTransformer3D(nn.Module):
    """Video Swin Transformer; build it with `create_model`.

    Attributes:
      embed_dim: channels after the patch embedding; they double at each merge.
      depths: blocks of each stage.
      num_heads: attention heads of each stage.
      num_classes: outputs of the head; 0 for none.
      patch_size: (time, height, width) of a patch, in frames and pixels.
      window_size: (time, height, width) of a window, in tokens.
      patch_norm: LayerNorm after the patch embedding.
      mlp_ratio: hidden channels of an MLP over its input's.
      qkv_bias: a bias in the query, key and value projection.
      qk_scale: factor on the queries; None is (dim / heads) ** -0.5.
      drop_rate: dropout after the patch embedding, projections and MLP layers.
      attn_drop_rate: dropout of attention weights.
      drop_path_rate: stochastic depth of the last block; it grows linearly from 0 at the first.
      head_dropout_rate: dropout before the classifier.
      frozen_stages: -1 trains everything, 0 freezes the patch embedding, n the first n stages too.
      remat: what is computed again in the backward pass to save memory, from nothing to all:
        "none"; "attention", logits and softmax; "dots", all but the outputs of linear layers and
        attention; "mlp", all but the queries, keys, values and what attention makes of them;
        "block", each block.
      relative_position: "reference" or "exact", see `attention.WindowGeometry.bias`.
      attention: implementation of attention, see `attention.window_attention`.
      tokenwise: implementation of all but attention, a name of `tokenwise.IMPLEMENTATIONS`.
      kernel_init: of linear layers: "reference" (normal, 0.02), or "lecun" for narrow models that
        are trained from scratch.
      token_order: "windows" keeps tokens in window order between blocks, "map" in the map's.
      dtype: compute dtype.
      clip_sharding: the devices that share each clip; None where one holds all of it.
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
    tokenwise: str = "auto"
    kernel_init: str = "reference"
    token_order: str = "windows"
    dtype: jnp.dtype = jnp.float32
    clip_sharding: ClipSharding | None = None

    def setup(self) -> None:
        """Declares the layers under the names of the released checkpoints."""
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
        """Refuses choices that do not exist.

        Raises:
          InputError: naming those that do.
        """
        for kind, name, known in (
            ("remat policy", self.remat, REMAT),
            ("relative_position", self.relative_position, ("reference", "exact")),
            ("attention implementation", self.attention, ("auto", *attention.IMPLEMENTATIONS)),
            ("tokenwise implementation", self.tokenwise, kernels.IMPLEMENTATIONS),
            ("kernel_init", self.kernel_init, KERNEL_INITS),
            ("token_order", self.token_order, TOKEN_ORDERS),
        ):
            if name not in known:
                raise unknown_name(kind, name, known)

    def _settings(self) -> BlockSettings:
        names = {field.name for field in fields(BlockSettings)} - {"recompute_attention"}
        shared = {name: getattr(self, name) for name in names}
        if self.is_initializing():
            # Parameters depend neither on the clip, here of a single patch, nor on what attends,
            # which may be for devices that are not here.
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
        """Refuses a clip of `size` (frames, height, width) that its devices cannot share.

        Raises:
          InputError: naming the sizes that they can.
        """
        if self.clip_sharding:
            merges = len(self.depths) - 1
            self.clip_sharding.check(size, self.patch_size, self.window_size, merges)

    def features(self, clips: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """Every map of the network for clips `[B, T, H, W, 3]`.

        Returns:
          `[B, D, H, W, C]` arrays: `patch_embed`; for each stage I, counted from 0,
          `stageI_before_merge` and `stageI_after_merge` (the same array for the last stage, which
          has no merge); `final`, the last map after the final LayerNorm.
        """
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

    def __call__(self, clips: jax.Array, train: bool = False) -> jax.Array:
        """Logits `[B, num_classes]`, float32, for normalised clips `[B, T, H, W, 3]`.

        Without a head (`num_classes=0`) the pooled features `[B, C]`, float32. Any T, H and W
        will do. In training pass `rngs={"dropout": key}`.
        """
        pooled = pin(pool(self.features(clips, train)["final"]), "batch", "channels")
        if not self.num_classes:
            return pooled
        logits = self.head(self.head_drop(pooled, deterministic=not train))
        return pin(logits, "batch", "classes")


def is_frozen(path: str, frozen_stages: int) -> bool:
    """Whether the parameter at `path` ("layers_0/blocks_1/attn/qkv/kernel") is frozen."""
    room = path.split("/")[0]
    if room == "patch_embed":
        return frozen_stages >= 0
    return room.startswith("layers_") and int(room.removeprefix("layers_")) < frozen_stages


def init_params(model: SwinTransformer3D, key: jax.Array) -> dict[str, object]:
    """Fresh float32 parameters; they do not depend on the size of the clips."""
    clips = jnp.zeros((1, *model.patch_size, 3))
    return jax.jit(model.init)(key, clips)["params"]
