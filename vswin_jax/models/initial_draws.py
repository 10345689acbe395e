"""Initialisers whose random numbers are drawn for all parameters of a model at once.

XLA compiles each draw of a program for 0.2 s. Here one loop computes the random bits of all
parameters. Every value is that of `flax.linen.initializers` with the same key, bit for bit.
"""

import itertools
import math
import operator
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float32, PRNGKeyArray, PyTree, UInt32

# Each parameter gets whole rows of random bits.
_ROW = 1024
_SQRT_2 = np.float32(np.sqrt(2))
# The standard deviation of a normal distribution that is cut off at 2 standard deviations.
_TRUNCATED_STD = np.float32(0.87962566103423978)

Bits = UInt32[Array, "rows columns"]
Values = Float32[Array, "rows columns"]


@dataclass(frozen=True)
class Initializer:
    """An initialiser `(key, shape, dtype) -> values` that `draw_together` can postpone.

    Attributes:
      stddev: the standard deviation; None is that of `lecun_normal`, 1 / sqrt(fan-in).
    """

    stddev: float | None

    def __call__(
        self, key: PRNGKeyArray, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32
    ) -> Array:
        """Return the values, or zeros that stand for them until `draw_together` ends."""
        postponed = _postponed.get()
        if postponed is not None and dtype == jnp.float32 and _is_partitionable(key):
            zeros = jnp.zeros(shape, dtype)
            postponed.append(_Draw(key, zeros, self.stddev))
            return zeros
        if self.stddev is None:
            return nn.initializers.lecun_normal()(key, shape, dtype)
        return nn.initializers.normal(self.stddev)(key, shape, dtype)


def normal(stddev: float) -> Initializer:
    """Return the equal of `flax.linen.initializers.normal(stddev)`."""
    return Initializer(stddev)


def lecun_normal() -> Initializer:
    """Return the equal of `flax.linen.initializers.lecun_normal()`."""
    return Initializer(None)


@dataclass(frozen=True)
class _Draw:
    """A postponed draw, for whose values `zeros` stand; `stddev` is that of the initialiser."""

    key: PRNGKeyArray
    zeros: Array
    stddev: float | None

    @property
    def rows(self) -> int:
        return -(-self.zeros.size // _ROW)

    @property
    def is_truncated(self) -> bool:
        return self.stddev is None

    @property
    def scale(self) -> float:
        """The factor of the normal values; for truncated ones their variance, 1 / fan-in."""
        return 1 / math.prod(self.zeros.shape[:-1]) if self.stddev is None else self.stddev


_postponed: ContextVar[list[_Draw] | None] = ContextVar("postponed draws", default=None)


def draw_together(initialize: Callable[[], PyTree]) -> PyTree:
    """Return the parameters that `initialize()` returns, drawing all values in one loop.

    It must be traced by `jax.jit`. All values are drawn on one device before they are sharded.
    """
    token = _postponed.set([])
    try:
        params = initialize()
        draws = _postponed.get()
    finally:
        _postponed.reset(token)
    leaves = {id(leaf) for leaf in jax.tree.leaves(params)}
    if not leaves.issuperset(id(draw.zeros) for draw in draws):
        # A transformation of Flax (`nn.scan`, `nn.vmap`) has drawn them, in a trace of its own.
        return initialize()
    values = {id(draw.zeros): value for draw, value in _values(draws)}
    return jax.tree.map(lambda leaf: values.get(id(leaf), leaf), params)


def _values(draws: Sequence[_Draw]) -> Iterator[tuple[_Draw, Array]]:
    """Yield each draw with its values."""
    if not draws:
        return
    draws = sorted(draws, key=operator.attrgetter("is_truncated"))
    # Without the barrier the bits would be computed anew for each parameter.
    bits = lax.optimization_barrier(_random_bits(draws))
    for is_truncated, members in itertools.groupby(draws, operator.attrgetter("is_truncated")):
        group = list(members)
        rows = [draw.rows for draw in group]
        scales = np.repeat(np.float32([draw.scale for draw in group]), rows)[:, None]
        values = (_lecun_normals if is_truncated else _normals)(bits[: sum(rows)], scales)
        yield from _cut(group, values.reshape(-1))
        bits = bits[sum(rows) :]


def _cut(draws: Sequence[_Draw], flat: Array) -> Iterator[tuple[_Draw, Array]]:
    start = 0
    for draw in draws:
        block = lax.slice(flat, (start,), (start + draw.zeros.size,))
        yield draw, block.reshape(draw.zeros.shape)
        start += draw.rows * _ROW


def _random_bits(draws: Sequence[_Draw]) -> Bits:
    """Return the bits that `jax.random.bits` gives for each draw, in rows.

    Bit pattern i of a key is that of `fold_in(key, i)`, its two halves combined by XOR.
    """
    keys = jnp.stack([draw.key for draw in draws])
    rows = [draw.rows for draw in draws]
    starts = np.concatenate([np.arange(count, dtype=np.uint32) * _ROW for count in rows])
    counts = starts[:, None] + lax.iota(jnp.uint32, _ROW)
    fold_in = jax.vmap(jax.vmap(jax.random.fold_in, in_axes=(None, 0)))
    halves = jax.random.key_data(fold_in(keys[np.repeat(np.arange(len(rows)), rows)], counts))
    return halves[..., 0] ^ halves[..., 1]


def _is_partitionable(key: PRNGKeyArray) -> bool:
    """Return True if each value depends on its key and index alone, as `_random_bits` assumes."""
    is_typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    if not (is_typed and jax.config.jax_threefry_partitionable):
        return False
    return str(jax.random.key_impl(key)) == "threefry2x32"


def _normals(bits: Bits, stddevs: np.ndarray) -> Values:
    """Return what `jax.random.normal` computes from `bits`, times `stddevs`."""
    low = np.nextafter(np.float32(-1), np.float32(0))
    # XLA combines the two constants of that product; whether it would do so here too depends on
    # its version.
    return lax.erf_inv(_uniform(bits, low, np.float32(1))) * (_SQRT_2 * stddevs)


def _lecun_normals(bits: Bits, variances: np.ndarray) -> Values:
    """Return what `jax.random.truncated_normal` computes from `bits`, scaled to `variances`."""
    low, high = (lax.erf(np.float32(end) / _SQRT_2) for end in (-2, 2))
    normals = _SQRT_2 * lax.erf_inv(_uniform(bits, low, high))
    ends = np.nextafter(np.float32([-2, 2]), np.float32([np.inf, -np.inf]))
    return jnp.clip(normals, ends[0], ends[1]) * (np.sqrt(variances) / _TRUNCATED_STD)


def _uniform(bits: Bits, low: Array | np.float32, high: Array | np.float32) -> Values:
    """Return what `jax.random.uniform` computes from `bits`."""
    mantissa = lax.shift_right_logical(bits, np.uint32(9)) | np.uint32(0x3F800000)
    floats = lax.bitcast_convert_type(mantissa, jnp.float32) - np.float32(1)
    return lax.max(jnp.float32(low), floats * (high - low) + low)
