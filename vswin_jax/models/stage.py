"""A stage: blocks of one resolution, alternating regular and shifted windows."""

from dataclasses import dataclass

import jax
from flax import linen as nn

from vswin_jax.attention import ATTENDED, Size, TokenOrder, WindowGeometry, reorder
from vswin_jax.models.attention_layer import QKV
from vswin_jax.models.blocks import BETWEEN, SwinBlock, draw_depth
from vswin_jax.models.mlp import HIDDEN
from vswin_jax.models.norm import STATISTICS
from vswin_jax.models.patches import PatchMerging, map_to_quads
from vswin_jax.models.settings import BlockSettings

_only = jax.checkpoint_policies.save_only_these_names

# What the backward pass finds stored of each block, from most to least; the rest it computes again.
# The block's input always is. `flops.RECOMPUTED` has what each costs.
REMAT = {
    "none": None,
    "attention": None,  # all but the logits and softmax: `BlockSettings.recompute_attention`
    "dots": _only(QKV, ATTENDED, BETWEEN, HIDDEN, STATISTICS),
    "mlp": _only(QKV, ATTENDED),
    "block": jax.checkpoint_policies.nothing_saveable,
}

# Where tokens lie between the blocks of a stage. "map" is the reference's way, which "windows"
# takes too where a grid needs padding, several devices share a clip, or tokens are dropped.
TOKEN_ORDERS = ("windows", "map")


@dataclass(frozen=True)
class _Walk:
    """Where the tokens of a stage lie: in the map, and at regular (0) and shifted (1) blocks."""

    geometries: tuple[WindowGeometry, WindowGeometry]
    map: TokenOrder
    orders: tuple[TokenOrder, TokenOrder]

    @classmethod
    def over(cls, grid: Size, settings: BlockSettings, train: bool) -> "_Walk":
        half = tuple(extent // 2 for extent in settings.window_size)
        geometries = tuple(settings.geometry(grid, shift, train) for shift in ((0, 0, 0), half))
        as_map = TokenOrder.of_map(grid)
        padded = geometries[0].padded != grid
        # Dropout draws for each token where the map has it.
        drops = train and settings.drop_rate > 0
        if padded or drops or settings.clip_sharding or settings.token_order == "map":
            return cls(geometries, as_map, (as_map, as_map))
        return cls(geometries, as_map, tuple(map(TokenOrder.of_windows, geometries)))

    @property
    def in_windows(self) -> bool:
        return self.orders[0] != self.map

    def to_quads(self, x: jax.Array, here: TokenOrder) -> jax.Array:
        """Tokens that lie in the order `here`, as `map_to_quads` gives them."""
        if self.in_windows and not any(size % 2 for size in self.map.grid[1:]):
            return reorder(x, here, TokenOrder.of_quads(self.map.grid))
        return map_to_quads(reorder(x, here, self.map))


class Stage(nn.Module):
    """Blocks of one resolution, then a merge.

    Attributes:
      drop_path_rates: of each block.
      merges: whether a merge follows.
      remat: a name of `REMAT`.
    """

    num_heads: int
    drop_path_rates: tuple[float, ...]
    merges: bool
    remat: str
    settings: BlockSettings

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        """`[B, D, H, W, C]` to the map before the merge and the map after it.

        The last stage has no merge: then both are the same.
        """
        walk = _Walk.over(x.shape[1:4], self.settings, train)
        blocks = [self._block(walk, index) for index in range(len(self.drop_path_rates))]
        factors = self._draw(len(x)) if train and any(self.drop_path_rates) else None
        here = walk.map
        for index, block in enumerate(blocks):
            x, here = reorder(x, here, walk.orders[index % 2]), walk.orders[index % 2]
            x = block(x, train, None if factors is None else factors[index])
        before = reorder(x, here, walk.map)
        if not self.merges:
            return before, before
        merge = PatchMerging(self.settings, name="downsample")
        return before, merge(walk.to_quads(x, here))

    def _draw(self, batch: int) -> jax.Array:
        # Once for all blocks: a program for each takes time to compile, on a GPU above all.
        return draw_depth(self.make_rng("dropout"), self.drop_path_rates, batch)

    def _block(self, walk: _Walk, index: int) -> SwinBlock:
        policy = REMAT[self.remat]
        # `train` steers Python control flow: argument 2, counting self.
        block = nn.remat(SwinBlock, static_argnums=(2,), policy=policy) if policy else SwinBlock
        return block(
            num_heads=self.num_heads,
            geometry=walk.geometries[index % 2],
            in_windows=walk.in_windows,
            settings=self.settings,
            name=f"blocks_{index}",
        )
