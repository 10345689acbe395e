"""Sharding of one clip over several devices, each with a slab of whole windows.

Slabs are cut along time or height. As windows never cross devices, operations on windows or tokens
need no communication. Only the cyclic shift does: each device sends its neighbour the slab of
tokens, as thick as the shift, that the neighbour's windows reach into.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int8, Shaped

from vswin_jax.attention.bias import Size
from vswin_jax.attention.geometry import Attend, WindowGeometry
from vswin_jax.errors import InputError
from vswin_jax.sharding.constraints import BATCH_AXES, SPLIT_AXES, WINDOW_AXIS

_UNITS = {"time": "frames (data.num_frames)", "height": "pixels of height (data.size)"}


@dataclass(frozen=True)
class ClipSharding:
    """The devices that share a clip, and the axis along which they split it.

    Attributes:
      mesh: with a `window` axis, whose devices share one clip.
      axis: "time" or "height", the axis of tokens that is split.
    """

    mesh: Mesh
    axis: str = "time"

    @property
    def devices(self) -> int:
        """Number of devices that share a clip."""
        return self.mesh.shape[WINDOW_AXIS]

    @property
    def grid_axis(self) -> int:
        """Index of the split axis in a (depth, height, width) size."""
        return SPLIT_AXES.index(self.axis)

    def constrain(self, x: Shaped[Array, "B D H W C"]) -> Shaped[Array, "B D H W C"]:
        """Constrain tokens to be split over the devices; other axes are left to the compiler."""
        spec = [PartitionSpec.UNCONSTRAINED] * x.ndim
        spec[1 + self.grid_axis] = WINDOW_AXIS
        return jax.lax.with_sharding_constraint(x, NamedSharding(self.mesh, PartitionSpec(*spec)))

    def check(self, clip: Size, patch: Size, window: Size, merges: int) -> None:
        """Check that each device gets whole windows of a clip in every stage.

        Padding must come after the last token of the clip, not at the end of each device's slab,
        so there must be none along the split axis.

        Args:
          clip: frames, height and width in pixels.
          patch: size of the model's patches.
          window: size of the model's windows.
          merges: number of times that the model halves the height.

        Raises:
          InputError: otherwise; the message names sizes and numbers of devices that fit.
        """
        size, unit = clip[self.grid_axis], patch[self.grid_axis] * window[self.grid_axis]
        if self.axis == "height":
            unit *= 2**merges
        if size % (unit * self.devices):
            raise self._size_error(size, unit)

    def _size_error(self, size: int, unit: int) -> InputError:
        """Build the error for clips of `size` where each device needs a multiple of `unit`."""
        step = unit * self.devices
        sizes = sorted({max(size // step, 1) * step, (size // step + 1) * step})
        devices = [n for n in range(1, size // unit + 1) if size % (unit * n) == 0] or [1]
        return InputError(
            f"Expected {_UNITS[self.axis]} that split over mesh.window={self.devices} devices into "
            f"whole windows in every stage, a multiple of {step}, but {size} came: use "
            f"{_join_with_or(sizes)}, or a mesh.window of {_join_with_or(devices)}.",
            ["mesh.window", "data.num_frames", "data.size"],
        )

    def shard_map(
        self, function: Callable, rows: int, axes: Sequence[int | None], out_axis: int
    ) -> Callable:
        """Wrap `function` so that each device applies it to its own part of the arguments.

        The gradient of a replicated argument is summed over the devices once, in its own shape and
        not in the shape of what `function` computes from it.

        Args:
          function: of several arrays.
          rows: size of the first axis, the batch, of the arguments that are split along another.
            It is split over the batch axes of the mesh if they divide it.
          axes: axis of each argument that is split over `window`; None for a replicated argument.
          out_axis: axis of the result that is split over `window`.
        """
        sizes = self.mesh.shape
        batch = BATCH_AXES if rows % math.prod(sizes[axis] for axis in BATCH_AXES) == 0 else ()
        # Axes of size 1 are made manual too, so that as few as possible are left for the
        # partitioner, which cannot split a kernel.
        trivial = {axis for axis, size in sizes.items() if size == 1}
        return jax.shard_map(
            function,
            mesh=self.mesh,
            in_specs=tuple(_partition_spec(axis, batch) for axis in axes),
            out_specs=_partition_spec(out_axis, batch),
            axis_names=trivial.union((*batch, WINDOW_AXIS)),
            # Kernels in a custom gradient do not declare the axes along which their results vary.
            check_vma=False,
        )


def _partition_spec(axis: int | None, batch: tuple[str, ...]) -> PartitionSpec:
    """Return the spec of an array that is split over `window` along `axis`, or replicated."""
    if axis is None:
        return PartitionSpec()
    return PartitionSpec(*[batch or None, None, None][:axis], WINDOW_AXIS)


def _join_with_or(numbers: Sequence[int]) -> str:
    return " or ".join(map(str, numbers))


@dataclass(frozen=True)
class SplitGeometry(WindowGeometry):
    """The windows of one block over a grid of tokens that several devices share.

    Arrays are those of the whole clip. Windows are ordered by device, and on each device in the
    order of `WindowGeometry`; if time is split, this is the order of `WindowGeometry` altogether.
    """

    sharding: ClipSharding

    @classmethod
    def from_geometry(cls, whole: WindowGeometry, sharding: ClipSharding) -> "SplitGeometry":
        """Split `whole` over the devices of `sharding`, which must each get whole windows."""
        return cls(
            grid=whole.grid,
            full_window=whole.full_window,
            window=whole.window,
            shift=whole.shift,
            sharding=sharding,
        )

    @functools.cached_property
    def local(self) -> WindowGeometry:
        """The windows on one device; do not use its `segment_ids`, which ignore other devices."""
        axis = self.sharding.grid_axis
        grid = tuple(
            size // self.sharding.devices if i == axis else size for i, size in enumerate(self.grid)
        )
        return WindowGeometry(grid, self.full_window, window=self.window, shift=self.shift)

    @functools.cached_property
    def segment_ids(self) -> Int8[np.ndarray, "windows N"] | None:
        """As in `WindowGeometry`, with the windows ordered by device."""
        whole = WindowGeometry(self.grid, self.full_window, window=self.window, shift=self.shift)
        ids = whole.segment_ids
        if ids is None:
            return None
        ids = np.moveaxis(ids.reshape(*self._split_counts, -1), self.sharding.grid_axis, 0)
        return ids.reshape(self.num_windows, self.tokens)

    @property
    def _split_counts(self) -> tuple[int, ...]:
        """Windows along each axis, the split axis as (devices, windows of each)."""
        axis, devices = self.sharding.grid_axis, self.sharding.devices
        before, count, after = self.counts[:axis], self.counts[axis], self.counts[axis + 1 :]
        return (*before, devices, count // devices, *after)

    def partition(self, x: Shaped[Array, "B D H W C"]) -> Shaped[Array, "B windows N C"]:
        """Cut the grid into windows; only the slab of the shift moves between devices."""
        partition = functools.partial(self.local.partition, roll=self._roll)
        return self.sharding.shard_map(
            partition, rows=len(x), axes=[1 + self.sharding.grid_axis], out_axis=1
        )(x)

    def merge(self, windows: Shaped[Array, "B windows N C"]) -> Shaped[Array, "B D H W C"]:
        """Return the grid of tokens: the inverse of `partition`."""
        merge = functools.partial(self.local.merge, roll=self._roll)
        return self.sharding.shard_map(
            merge, rows=len(windows), axes=[1], out_axis=1 + self.sharding.grid_axis
        )(windows)

    def attend(
        self,
        attend: Attend,
        qkv: Float[Array, "B windows N 3 heads dim"],
        table: Float[Array, "rows heads"],
    ) -> Float[Array, "B windows N heads dim"]:
        """Call `attend` on each device's windows; gradients of `table` are summed over devices."""
        if self.segment_ids is None:
            each = self.sharding.shard_map(
                lambda qkv, table: attend(qkv, table, None), len(qkv), axes=[1, None], out_axis=1
            )
            return each(qkv, table)
        each = self.sharding.shard_map(attend, len(qkv), axes=[1, None, 0], out_axis=1)
        return each(qkv, table, jnp.asarray(self.segment_ids))

    def apply_in_window_order(
        self,
        function: Callable[[jax.Array], jax.Array],
        windows: Shaped[Array, "B windows *rest"],
    ) -> Shaped[Array, "B windows *rest"]:
        """Apply `function` to the windows in the order of `WindowGeometry`, and order them back.

        Random draws then do not depend on the number of devices.
        """
        devices, axis = self.sharding.devices, 1 + self.sharding.grid_axis
        rest = np.delete(self._split_counts, axis - 1)
        by_device = windows.reshape(len(windows), devices, *rest, *windows.shape[2:])
        ordered = function(jnp.moveaxis(by_device, 1, axis))
        return jnp.moveaxis(ordered, axis, 1).reshape(windows.shape)

    def _roll(self, x: jax.Array, shift: Size, axis: tuple[int, ...]) -> jax.Array:
        """Roll the whole clip as `jnp.roll` does, given one device's part of it."""
        split = self.sharding.grid_axis
        x = jnp.roll(x, [0 if i == split else s for i, s in enumerate(shift)], axis)
        return roll_over_devices(
            x, shift[split], axis=axis[split], mesh_axis=WINDOW_AXIS, devices=self.sharding.devices
        )


def roll_over_devices(
    x: Shaped[Array, "..."], shift: int, axis: int, mesh_axis: str, devices: int
) -> Shaped[Array, "..."]:
    """Roll an array that is split along `axis` over the `devices` of a mesh axis.

    `x` is one device's part. `shift` is positive towards the end, as in `jnp.roll`, and at most the
    length of a part. One slab of that thickness goes to the next device, and its gradient back.
    """
    if not shift:
        return x
    size = x.shape[axis]
    towards_end = shift > 0
    seam = size - shift if towards_end else -shift
    first = jax.lax.slice_in_dim(x, 0, seam, axis=axis)
    last = jax.lax.slice_in_dim(x, seam, size, axis=axis)
    leaving = last if towards_end else first
    step = 1 if towards_end else -1
    pairs = [(i, (i + step) % devices) for i in range(devices)]
    arriving = jax.lax.ppermute(leaving, mesh_axis, pairs)
    return jnp.concatenate([arriving, first] if towards_end else [last, arriving], axis)
