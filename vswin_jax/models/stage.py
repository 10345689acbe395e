"""A stage: blocks of one resolution, alternating regular and shifted windows.

Equal pairs of blocks can run in a loop, so that the compiler sees one pair of a stage and not nine.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from vswin_jax.attention import ATTENDED, Size, TokenOrder, WindowGeometry, reorder
from vswin_jax.models.attention import QKV
from vswin_jax.models.blocks import BETWEEN, SwinBlock, draw_depth
from vswin_jax.models.mlp import HIDDEN
from vswin_jax.models.norm import STATISTICS
from vswin_jax.models.patches import PatchMerging, map_to_quads
from vswin_jax.models.settings import BlockSettings
from vswin_jax.spreading import target

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
      scan: run equal pairs of blocks in a loop; None: for a TPU.
    """

    num_heads: int
    drop_path_rates: tuple[float, ...]
    merges: bool
    remat: str
    scan: bool | None
    settings: BlockSettings

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        """`[B, D, H, W, C]` to the map before the merge and the map after it.

        The last stage has no merge: then both are the same.
        """
        walk = _Walk.over(x.shape[1:4], self.settings, train)
        blocks = [self._block(walk, index) for index in range(len(self.drop_path_rates))]
        factors = self._draw(len(x)) if train and any(self.drop_path_rates) else None
        scanned = len(blocks) // 2 * 2 if self._scans(train) else 0
        here = walk.map
        if scanned:
            x = reorder(x, here, walk.orders[0])
            first = None if factors is None else factors[:scanned]
            x, here = self._scan(blocks[:scanned], walk, x, train, first), walk.orders[0]
        for index, block in enumerate(blocks[scanned:], scanned):
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
        return block(**self._block_fields(walk, index), name=f"blocks_{index}")

    def _block_fields(self, walk: _Walk, index: int) -> dict[str, Any]:
        return {
            "num_heads": self.num_heads,
            "geometry": walk.geometries[index % 2],
            "in_windows": walk.in_windows,
            "settings": self.settings,
        }

    def _scans(self, train: bool) -> bool:
        """Whether there are pairs to loop over; their parameters exist, and no dropout draws."""
        wanted = target() == "tpu" if self.scan is None else self.scan
        drops = train and (self.settings.drop_rate > 0 or self.settings.attn_drop_rate > 0)
        pairs = len(self.drop_path_rates) // 2
        return wanted and pairs > 1 and not drops and not self.is_initializing()

    def _scan(
        self,
        blocks: Sequence[SwinBlock],
        walk: _Walk,
        x: jax.Array,
        train: bool,
        factors: jax.Array | None,
    ) -> jax.Array:
        """What `blocks`, regular and shifted in turn, make of `x`; it lies as the first has it.

        The parameters stay those of each block: the loop runs over a stack of them, which costs a
        copy of the parameters.
        """
        run = [self._unbound(walk, index, train) for index in range(2)]
        regular, shifted = walk.orders

        def pair(x: jax.Array, each: tuple[Any, Any]) -> tuple[jax.Array, None]:
            (first, second), factors = each
            x = run[0](first, x, None if factors is None else factors[0])
            x = reorder(x, regular, shifted)
            x = run[1](second, x, None if factors is None else factors[1])
            return reorder(x, shifted, regular), None

        # Not before the tokens are there: else the stacks of all stages would be made at once.
        params = [block.variables["params"] for block in blocks]
        params, x = jax.lax.optimization_barrier((params, x))
        stacks = tuple(_stack(params[parity::2]) for parity in range(2))
        if factors is not None:
            factors = factors.reshape(-1, 2, *factors.shape[1:])
        return jax.lax.scan(pair, x, (stacks, factors))[0]

    def _unbound(self, walk: _Walk, index: int, train: bool) -> Callable[..., jax.Array]:
        """(parameters, x, factors) to what such a block makes of x, under the remat policy."""
        block = SwinBlock(**self._block_fields(walk, index), parent=None)

        def run(params: Any, x: jax.Array, factors: jax.Array | None) -> jax.Array:
            return block.apply({"params": params}, x, train, factors)

        policy = REMAT[self.remat]
        # In a loop nothing is there that could be merged with what is computed again.
        return jax.checkpoint(run, policy=policy, prevent_cse=False) if policy else run


def _stack(params: Sequence[Any]) -> Any:
    """The parameters of equal blocks, with a leading axis of blocks."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)
