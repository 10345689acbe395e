"""Attention maps: the weights with which a token attends to the other tokens of its 3D window."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int64, PyTree

from vswin_jax.attention import Size, WindowGeometry
from vswin_jax.errors import InputError
from vswin_jax.inference.clip_inputs import normalize
from vswin_jax.inference.explanations.captured_layers import (
    check_block,
    check_stage,
    intercept_layer,
    plain_model,
)
from vswin_jax.models import SwinTransformer3D
from vswin_jax.models.attention_layer import BIAS_TABLE, AttentionLayer, Qkv
from vswin_jax.models.attention_registry import is_reference
from vswin_jax.models.settings import BlockSettings

# The mask of the reference.
_MASK = -100.0


class _LayerCall(NamedTuple):
    """The settings of an attention layer, the tokens in windows that it gets, and its windows."""

    settings: BlockSettings
    tokens: Float[Array, "1 W N C"]
    geometry: WindowGeometry


class AttentionWindow(NamedTuple):
    """The attention of one window of a clip.

    Attributes:
      weights: (head, query, key); the sum over keys is 1, and 0 for keys of other segments.
      tokens: the index in the grid, in raster order, of each token of the window; -1 for padding.
      grid: the grid of tokens (time, height, width).
      query: the index in the window of the token that was asked for.
      logits: the model's logits for the clip.
    """

    weights: Float32[np.ndarray, "heads N N"]
    tokens: Int64[np.ndarray, " N"]
    grid: Size
    query: int
    logits: Float32[np.ndarray, " K"]

    def token_map(self, head: int | None = None) -> Float32[np.ndarray, "D H W"]:
        """Return the weights of the query on the grid; None averages over the heads.

        Outside of the window they are 0.
        """
        row = (
            self.weights[:, self.query].mean(0) if head is None else self.weights[head, self.query]
        )
        return self._on_grid(row)

    @property
    def place(self) -> Float32[np.ndarray, "D H W"]:
        """1 at the tokens of the window, 2 at the query, and 0 at all others."""
        return self._on_grid(1 + (np.arange(len(self.tokens)) == self.query).astype(np.float32))

    def _on_grid(self, values: np.ndarray) -> np.ndarray:
        grid = np.zeros(np.prod(self.grid), np.float32)
        inside = self.tokens >= 0
        grid[self.tokens[inside]] = values[inside]
        return grid.reshape(self.grid)


class AttentionReader:
    """Reads the attention of one block, compiled once for each size of the clips.

    Args:
      model: a model whose attention layer is that of the paper.
      stage: the stage, counted from 0.
      block: the block of the stage, by default the last one. Blocks 1, 3, ... have shifted windows.

    Attributes:
      block: the block that is read.

    Raises:
      InputError: there is no such block, or the model has an attention layer of its own.
    """

    def __init__(self, model: SwinTransformer3D, stage: int, block: int | None = None) -> None:
        if not is_reference(model.attention_layer):
            raise InputError(
                f"Expected the attention layer of the paper but the model has "
                f"{model.attention_layer!r}, whose weights are unknown: use Grad-CAM."
            )
        self._model = plain_model(model)
        self.block = check_block(model, check_stage(model, stage), block)
        self._path = (f"layers_{stage}", f"blocks_{self.block}", "attn")
        self._heads = model.num_heads[stage]
        self._compiled = jax.jit(self._weights)

    def __call__(
        self, params: PyTree, clip: Float[Array, "T H W 3"], query: tuple[float, float, float]
    ) -> AttentionWindow:
        """Read the window around `query`, which is (time, height, width) as shares of the clip."""
        geometry = self.geometry(params, clip)
        windows = window_tokens(geometry)
        token = token_at(query, geometry.grid)
        window, place = map(int, np.argwhere(windows == token)[0])
        weights, logits = self._compiled(params, clip, window)
        return AttentionWindow(
            np.asarray(weights), windows[window], geometry.grid, place, np.asarray(logits)
        )

    def geometry(self, params: PyTree, clip: Float[Array, "T H W 3"]) -> WindowGeometry:
        """Return the windows of the block for a clip of this size; nothing is computed."""
        seen: list[WindowGeometry] = []

        def trace(params: PyTree, clip: jax.Array) -> jax.Array:
            call, logits = self._call(params, clip)
            seen.append(call.geometry)
            return logits

        jax.eval_shape(trace, params, clip)
        return seen[0]

    def _call(self, params: PyTree, clip: jax.Array) -> tuple["_LayerCall", jax.Array]:
        """Return the call of the layer, and the logits."""
        seen: list[_LayerCall] = []

        def replace(layer: AttentionLayer, arguments: tuple[Any, ...], result: object) -> object:
            seen.append(_LayerCall(layer.settings, *arguments[:2]))
            return result

        with intercept_layer(self._path, replace):
            logits = self._model.apply({"params": params}, normalize(clip[None]))
        return seen[0], logits[0].astype(jnp.float32)

    def _weights(
        self, params: PyTree, clip: jax.Array, window: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        (settings, tokens, geometry), logits = self._call(params, clip)
        stage, block, layer = self._path
        own = params[stage][block][layer]
        projection = Qkv(self._heads, settings, parent=None)
        qkv = projection.apply({"params": own["qkv"]}, tokens[:, window][:, None])
        query, key, _ = jnp.moveaxis(qkv[0, 0].astype(jnp.float32), (1, 2), (0, 1))
        scale = query.shape[-1] ** -0.5 if settings.qk_scale is None else settings.qk_scale
        products = jnp.einsum("hqd,hkd->hqk", query * scale, key)
        bias = geometry.bias(own[BIAS_TABLE], settings.relative_position)
        return _masked_softmax(products + bias, geometry, window), logits


def _masked_softmax(
    logits: jax.Array, geometry: WindowGeometry, window: jax.Array
) -> Float32[Array, "heads N N"]:
    if geometry.segment_ids is None:
        return jax.nn.softmax(logits)
    ids = jnp.asarray(geometry.segment_ids)[window]
    differs = ids[:, None] != ids[None]
    weights = jax.nn.softmax(logits + _MASK * differs)
    # exp(-100) is a denormal number on some devices and 0 on others.
    return jnp.where(differs, 0.0, weights)


def window_tokens(geometry: WindowGeometry) -> Int64[np.ndarray, "windows N"]:
    """Return the index in the grid of each token of each window; -1 for padding."""
    # Padding is zeros, so that the indices are counted from 1.
    numbers = 1 + np.arange(np.prod(geometry.grid)).reshape(1, *geometry.grid, 1)
    return np.asarray(jax.jit(geometry.partition)(numbers), np.int64)[0, ..., 0] - 1


def token_at(query: tuple[float, float, float], grid: Size) -> int:
    """Return the index in the grid of the token at (time, height, width), shares of the clip.

    Raises:
      InputError: the place is outside of the clip.
    """
    if len(query) != 3 or not all(0 <= share <= 1 for share in query):
        raise InputError(
            f"Expected the query as time, height and width from 0 to 1, such as 0.5,0.5,0.5, but "
            f"{','.join(map(str, query))} came: change it."
        )
    place = [min(int(share * size), size - 1) for share, size in zip(query, grid, strict=True)]
    return int(np.ravel_multi_index(place, grid))
