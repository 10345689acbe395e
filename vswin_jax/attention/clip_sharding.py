"""One clip over several devices: each holds a slab of whole windows along time or height.

Windows then never cross devices, and what is done window by window or token by token needs no
communication. Only the cyclic shift does: each device gives its neighbour the slab of tokens, as
thick as the shift, that the neighbour's windows reach into.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vswin_jax.attention.bias import Size
from vswin_jax.attention.geometry import Attend, WindowGeometry
from vswin_jax.errors import InputError
from vswin_jax.sharding.constraints import BATCH_AXES, SPLIT_AXES, WINDOW_AXIS

_UNITS = {"time": "frames (data.num_frames)", "height": "pixels of height (data.size)"}


@dataclass(frozen=True)
class ClipSharding:
    """Which devices share a clip, and along what.

    Attributes:
      mesh: with a `window` axis, whose devices share one clip.
      over: "time" or "height", the axis of tokens that is split.
    """

    mesh: Mesh
    over: str = "time"

    @property
    def devices(self) -> int:
        """How many devices share a clip."""
        return self.mesh.shape[WINDOW_AXIS]

    @property
    def grid_axis(self) -> int:
        """The axis of a (depth, height, width) size that is split."""
        return SPLIT_AXES.index(self.over)

    def constrain(self, x: jax.Array) -> jax.Array:
        """`[B, D, H, W, C]`, split along `over`; the other axes lie as the compiler likes."""
        spec = [PartitionSpec.UNCONSTRAINED] * x.ndim
        spec[1 + self.grid_axis] = WINDOW_AXIS
        return jax.lax.with_sharding_constraint(x, NamedSharding(self.mesh, PartitionSpec(*spec)))

    def check(self, clip: Size, patch: Size, window: Size, merges: int) -> None:
        """Refuses clips of which some device would get a part of a window, in any stage.

        Padding would have to lie behind the last token of the clip, not at the end of each
        device's part, so there must not be any along the split axis.

        Args:
          clip: frames, height and width in pixels.
          patch, window: of the model.
          merges: how often the height is halved.

        Raises:
          InputError: naming the sizes, and the numbers of devices, that would do.
        """
        axis, size = self.grid_axis, clip[self.grid_axis]
        unit = patch[axis] * window[axis] * (2**merges if self.over == "height" else 1)
        step = unit * self.devices
        if size % step == 0:
            return
        sizes = sorted({max(size // step, 1) * step, (size // step + 1) * step})
        fitting = [n for n in range(1, size // unit + 1) if size % (unit * n) == 0] or [1]
        raise InputError(
            f"Expected {_UNITS[self.over]} that split over mesh.window={self.devices} devices into "
            f"whole windows in every stage, a multiple of {step}, but {size} came: use "
            f"{_or(sizes)}, or a mesh.window of {_or(fitting)}."
        )

    def on_each(
        self, function: Callable, rows: int, axes: Sequence[int | None], out: int
    ) -> Callable:
        """`function` of several arrays, applied by each device to its own part of them.

        The arrays are split over the `window` axis along `axes`, None for whole ones, and the
        result along `out`. The first axis of those that are split further behind has `rows` rows,
        which stay on the devices of their batch if they divide over them. The gradient of a whole
        array is summed over the devices once, as it is, not as what `function` makes of it.
        """
        sizes = self.mesh.shape
        batch = BATCH_AXES if rows % math.prod(sizes[axis] for axis in BATCH_AXES) == 0 else ()
        names = (*batch, WINDOW_AXIS)
        # Axes of one device are made manual too, so that a kernel finds as few to split as it can.
        trivial = {axis for axis, size in sizes.items() if size == 1}

        def spec(axis: int | None) -> PartitionSpec:
            if axis is None:
                return PartitionSpec()
            return PartitionSpec(*[batch or None, None, None][:axis], WINDOW_AXIS)

        return jax.shard_map(
            function,
            mesh=self.mesh,
            in_specs=tuple(map(spec, axes)),
            out_specs=spec(out),
            axis_names=trivial.union(names),
            # Kernels in a custom gradient do not say along which axes their results vary.
            check_vma=False,
        )


def _or(numbers: Sequence[int]) -> str:
    return " or ".join(map(str, numbers))


@dataclass(frozen=True)
class SplitGeometry(WindowGeometry):
    """The windows of one block over a grid of tokens that several devices share.

    Arrays are those of the whole clip. Windows come device by device, and on each device in the
    order of `WindowGeometry`; along time that is the same order.
    """

    sharding: ClipSharding

    @classmethod
    def of(cls, whole: WindowGeometry, sharding: ClipSharding) -> "SplitGeometry":
        """`whole`, shared by the devices of `sharding`, which must each get whole windows."""
        return cls(whole.grid, whole.full_window, whole.window, whole.shift, sharding)

    @functools.cached_property
    def local(self) -> WindowGeometry:
        """The part of one device; its `region_ids` are not those of any."""
        axis = self.sharding.grid_axis
        grid = tuple(
            size // self.sharding.devices if i == axis else size for i, size in enumerate(self.grid)
        )
        return WindowGeometry(grid, self.full_window, self.window, self.shift)

    @functools.cached_property
    def region_ids(self) -> np.ndarray | None:
        """As those of `WindowGeometry`, with the windows device by device."""
        ids = WindowGeometry(self.grid, self.full_window, self.window, self.shift).region_ids
        if ids is None:
            return None
        ids = np.moveaxis(ids.reshape(*self._split_counts, -1), self.sharding.grid_axis, 0)
        return ids.reshape(self.num_windows, self.tokens)

    @property
    def _split_counts(self) -> tuple[int, ...]:
        """The counts of windows, that of the split axis as (devices, windows of each)."""
        axis, devices = self.sharding.grid_axis, self.sharding.devices
        before, count, after = self.counts[:axis], self.counts[axis], self.counts[axis + 1 :]
        return (*before, devices, count // devices, *after)

    def partition(self, x: jax.Array) -> jax.Array:
        """As that of `WindowGeometry`; only the shift's slab moves between devices."""
        cut = functools.partial(self.local.partition, roll=self._roll)
        return self.sharding.on_each(cut, len(x), [1 + self.sharding.grid_axis], 1)(x)

    def merge(self, windows: jax.Array) -> jax.Array:
        """The inverse of `partition`."""
        join = functools.partial(self.local.merge, roll=self._roll)
        return self.sharding.on_each(join, len(windows), [1], 1 + self.sharding.grid_axis)(windows)

    def attend(self, attend: Attend, qkv: jax.Array, table: jax.Array) -> jax.Array:
        """`attend` on the windows of each device; gradients of `table` are summed over them."""
        if self.region_ids is None:
            each = self.sharding.on_each(
                lambda qkv, table: attend(qkv, table, None), len(qkv), [1, None], 1
            )
            return each(qkv, table)
        each = self.sharding.on_each(attend, len(qkv), [1, None, 0], 1)
        return each(qkv, table, jnp.asarray(self.region_ids))

    def map_in_order(
        self, function: Callable[[jax.Array], jax.Array], windows: jax.Array
    ) -> jax.Array:
        """As that of `WindowGeometry`; the windows are put into its order and back."""
        devices, axis = self.sharding.devices, 1 + self.sharding.grid_axis
        rest = np.delete(self._split_counts, axis - 1)
        by_device = windows.reshape(len(windows), devices, *rest, *windows.shape[2:])
        ordered = function(jnp.moveaxis(by_device, 1, axis))
        return jnp.moveaxis(ordered, axis, 1).reshape(windows.shape)

    def _roll(self, x: jax.Array, shift: Size, axis: tuple[int, ...]) -> jax.Array:
        """`jnp.roll` of the whole clip, seen from one device's part of it."""
        split = self.sharding.grid_axis
        x = jnp.roll(x, [0 if i == split else s for i, s in enumerate(shift)], axis)
        return roll_over_devices(x, shift[split], axis[split], WINDOW_AXIS, self.sharding.devices)


def roll_over_devices(x: jax.Array, shift: int, axis: int, name: str, devices: int) -> jax.Array:
    """A cyclic shift of what `devices` hold parts of, in their order along the mesh axis `name`.

    `x` is one device's part and `shift`, positive towards the end as in `jnp.roll`, not more than
    it is long. One slab of that thickness goes to the next device; its gradient comes back so.
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
    arriving = jax.lax.ppermute(leaving, name, [(i, (i + step) % devices) for i in range(devices)])
    return jnp.concatenate([arriving, first] if towards_end else [last, arriving], axis)
