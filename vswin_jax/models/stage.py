"""A stage: blocks of one resolution, alternating regular and shifted windows."""

from dataclasses import dataclass

import jax
from flax import linen as nn
from jaxtyping import Array, Float

from vswin_jax.attention import ATTENTION_OUT, Size, TokenOrder, WindowGeometry, reorder
from vswin_jax.models.attention_layer import QKV
from vswin_jax.models.blocks import BETWEEN, SwinBlock, sample_drop_path
from vswin_jax.models.mlp import HIDDEN
from vswin_jax.models.norm import STATISTICS
from vswin_jax.models.patches import PatchMerging, grid_to_quads
from vswin_jax.models.settings import BlockSettings

_only = jax.checkpoint_policies.save_only_these_names

# The rematerialisation policies: the activations of each block that are stored for the backward
# pass, from most to least. The input of a block is always stored. `flops.RECOMPUTED` lists the
# products that each policy computes again.
REMAT = {
    "none": None,
    "attention": None,  # all but logits and softmax, see `BlockSettings.recompute_attention`
    "dots": _only(QKV, ATTENTION_OUT, BETWEEN, HIDDEN, STATISTICS),
    "mlp": _only(QKV, ATTENTION_OUT),
    "block": jax.checkpoint_policies.nothing_saveable,
}

# The order of the tokens between the blocks of a stage. "map" is raster order, as in the reference;
# "windows" is window order, or raster order if the grid needs padding, devices share a clip, or
# dropout is on.
TOKEN_ORDERS = ("windows", "map")


@dataclass(frozen=True)
class StageLayout:
    """The order of the tokens in a stage.

    Attributes:
      geometries: The windows of regular (0) and shifted (1) blocks.
      raster: Raster order, `[B, D, H, W, C]`.
      orders: The token orders of regular (0) and shifted (1) blocks.
    """

    geometries: tuple[WindowGeometry, WindowGeometry]
    raster: TokenOrder
    orders: tuple[TokenOrder, TokenOrder]

    @classmethod
    def create(cls, grid: Size, settings: BlockSettings, train: bool) -> "StageLayout":
        """Choose the token order of a stage over `grid`."""
        half = tuple(extent // 2 for extent in settings.window_size)
        geometries = tuple(settings.geometry(grid, shift, train) for shift in ((0, 0, 0), half))
        raster = TokenOrder.raster_order(grid)
        padded = geometries[0].padded_grid != grid
        # Dropout draws in raster order, so that its draws do not depend on the token order.
        has_dropout = train and settings.drop_rate > 0
        if padded or has_dropout or settings.clip_sharding or settings.token_order == "map":
            return cls(geometries, raster, (raster, raster))
        return cls(geometries, raster, tuple(map(TokenOrder.window_order, geometries)))

    @property
    def in_windows(self) -> bool:
        """True if tokens are in window order between the blocks."""
        return self.orders[0] != self.raster

    def to_quads(
        self, x: Float[Array, "B *tokens C"], order: TokenOrder
    ) -> Float[Array, "B D H2 W2 4 C"]:
        """Group tokens that are in the order `order` for `PatchMerging`, as `grid_to_quads`."""
        if self.in_windows and not any(size % 2 for size in self.raster.grid[1:]):
            return reorder(x, order, TokenOrder.patch_merging_order(self.raster.grid))
        return grid_to_quads(reorder(x, order, self.raster))


class Stage(nn.Module):
    """Blocks of one resolution, followed by patch merging in all stages but the last.

    Attributes:
      drop_path_rates: The stochastic depth rate of each block.
      merges: True if patch merging follows.
      remat: A name of `REMAT`.
    """

    num_heads: int
    drop_path_rates: tuple[float, ...]
    merges: bool
    remat: str
    settings: BlockSettings

    @nn.compact
    def __call__(
        self, x: Float[Array, "B D H W C"], train: bool
    ) -> tuple[Float[Array, "B D H W C"], Float[Array, "B D H2 W2 C2"]]:
        """Return the feature maps before and after patch merging.

        They are the same in the last stage, which has no merging.
        """
        layout = StageLayout.create(x.shape[1:4], self.settings, train)
        blocks = [self._block(layout, index) for index in range(len(self.drop_path_rates))]
        factors = self._sample_drop_path(len(x)) if train and any(self.drop_path_rates) else None
        order = layout.raster
        for index, block in enumerate(blocks):
            x, order = reorder(x, order, layout.orders[index % 2]), layout.orders[index % 2]
            x = block(x, train, None if factors is None else factors[index])
        before = reorder(x, order, layout.raster)
        if not self.merges:
            return before, before
        merge = PatchMerging(self.settings, name="downsample")
        return before, merge(layout.to_quads(x, order))

    def _sample_drop_path(self, batch: int) -> jax.Array:
        # One draw for all blocks: a program with a draw per block takes longer to compile, above
        # all on a GPU.
        return sample_drop_path(self.make_rng("dropout"), self.drop_path_rates, batch)

    def _block(self, layout: StageLayout, index: int) -> SwinBlock:
        policy = REMAT[self.remat]
        # `train` decides Python control flow, so it is static: argument 2, counting self.
        block = nn.remat(SwinBlock, static_argnums=(2,), policy=policy) if policy else SwinBlock
        return block(
            num_heads=self.num_heads,
            geometry=layout.geometries[index % 2],
            in_windows=layout.in_windows,
            settings=self.settings,
            name=f"blocks_{index}",
        )
