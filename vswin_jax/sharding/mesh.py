"""The device mesh, the partition rules of parameters, and the sharding of batches.

Partition rules are a list of (regular expression of a parameter path, PartitionSpec). The first
match wins and every parameter must match one.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import flax.traverse_util
import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from vswin_jax.errors import InputError, rename_arguments
from vswin_jax.sharding.constraints import (
    BATCH_AXES,
    SPLIT_AXES,
    WINDOW_AXIS,
    drop_indivisible_axes,
)

Rules = Sequence[tuple[str, PartitionSpec]]

_BIAS_TABLE = "relative_position_bias_table"
_AXES = ("data", "fsdp", "model", "window")
REPLICATED: Rules = ((".*", PartitionSpec()),)

# Kernels are [in, out]. Parameters that no rule splits (norms, biases, patch embedding: 0.1 % of
# Swin-L; bias tables: 0.7 %) are replicated, since splitting each would cost a collective. A mesh
# axis of size 1 splits nothing, so FSDP serves replicated training too, and TENSOR_PARALLEL serves
# with and without fsdp.
FSDP: Rules = (
    # Split by rows: the TPU compiler then reduces gradients by reduce-scatters. If columns were
    # split, it would use all-reduces, which send twice as many bytes.
    (r"(attn/qkv|attn/proj|fc1|fc2|reduction|head)/kernel$", PartitionSpec("fsdp")),
    (r".*", PartitionSpec()),
)
# Heads and hidden channels over `model` (Megatron-LM, arXiv:1909.08053, section 3).
TENSOR_PARALLEL: Rules = (
    # The columns are [3, heads, dim], so no contiguous slice of them holds whole heads: the rows
    # are split, and the step reshards rows to heads by an all-to-all of this kernel alone.
    (r"attn/qkv/kernel$", PartitionSpec("model", "fsdp")),
    (r"attn/relative_position_bias_table$", PartitionSpec(None, "model")),
    (r"attn/proj/kernel$", PartitionSpec("model", "fsdp")),
    (r"mlp/fc1/kernel$", PartitionSpec("fsdp", "model")),
    (r"mlp/fc1/bias$", PartitionSpec("model")),
    (r"mlp/fc2/kernel$", PartitionSpec("model", "fsdp")),
    (r"(reduction|head)/kernel$", PartitionSpec("fsdp")),
    (r".*", PartitionSpec()),
)


def make_mesh(
    data: int = -1,
    fsdp: int = 1,
    model: int = 1,
    window: int = 1,
    devices: Sequence[jax.Device] | None = None,
) -> Mesh:
    """Build the mesh of all (or the given) devices with the axes data, fsdp, model and window.

    `data=-1` takes the devices that the other axes leave. The devices along `window` share each
    clip; it is the last axis, so they are nearest neighbours.

    Raises:
      InputError: The axes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = _axis_sizes(data, fsdp, model, window, len(devices))
    types = (AxisType.Auto,) * len(sizes)
    return jax.make_mesh(tuple(sizes.values()), tuple(sizes), types, devices=devices)


def _axis_sizes(data: int, fsdp: int, model: int, window: int, devices: int) -> dict[str, int]:
    others = {"fsdp": fsdp, "model": model, WINDOW_AXIS: window}
    if min(others.values()) < 1 or (data < 1 and data != -1):
        raise InputError(
            f"Mesh axes must be 1 or above (data may be -1), got data={data}, fsdp={fsdp}, "
            f"model={model}, window={window}: correct them.",
            ["data", "fsdp", "model", "window"],
        )
    data = max(devices // math.prod(others.values()), 1) if data == -1 else data
    sizes = {"data": data, **others}
    if math.prod(sizes.values()) != devices:
        raise InputError(
            f"A mesh of {' x '.join(f'{name}={size}' for name, size in sizes.items())} needs "
            f"{math.prod(sizes.values())} devices, but there are {devices}: make the product equal "
            f"to it, or use data=-1.",
            ["data", "fsdp", "model", "window"],
        )
    return sizes


def mesh_from_config(config: Any, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Build the mesh that `config.mesh` describes from all (or the given) devices.

    Raises:
      InputError: The axes do not multiply to the number of devices.
    """
    axes = config.mesh
    with rename_arguments({name: f"config.mesh.{name}" for name in _AXES}):
        return make_mesh(axes.data, axes.fsdp, axes.model, axes.window, devices)


def default_rules(mesh: Mesh, params: Any) -> Rules:
    """Return one partition rule for each of these parameters (arrays or shapes).

    The rules come from `TENSOR_PARALLEL` if the mesh axis `model` is above 1, else from `FSDP`.
    Mesh axes that do not divide a parameter are dropped from its spec. Where `model` does not
    divide the heads of a block, the attention of that block is replicated along `model`.
    """
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    table = TENSOR_PARALLEL if mesh.shape["model"] > 1 else FSDP
    without_model = dict(mesh.shape) | {"model": 1}
    rules = []
    for path, spec in match_rules(table, flat).items():
        indivisible = _has_indivisible_heads(path, flat, mesh.shape["model"])
        sizes = without_model if indivisible else mesh.shape
        rules.append((f"^{re.escape(path)}$", drop_indivisible_axes(spec, flat[path].shape, sizes)))
    return rules


def _has_indivisible_heads(path: str, flat: Mapping[str, Any], model: int) -> bool:
    """Return True if `path` is in an attention layer whose heads `model` does not divide."""
    block, attn, _ = path.partition("/attn/")
    table = flat.get(f"{block}{attn}{_BIAS_TABLE}") if attn else None
    return table is not None and table.shape[-1] % model != 0


def match_rules(rules: Rules, paths: Iterable[str]) -> dict[str, PartitionSpec]:
    """Return the spec of the first rule that matches, for each parameter path.

    Raises:
      InputError: Some paths match no rule; the message lists them.
    """
    specs = {path: _first_match(rules, path) for path in paths}
    missing = [path for path, spec in specs.items() if spec is None]
    if missing:
        raise InputError(
            f"Every parameter needs a partition rule, but {len(missing)} match none: "
            f"{', '.join(missing[:10])}{', ...' if len(missing) > 10 else ''}; add rules for them."
        )
    return {path: spec for path, spec in specs.items() if spec is not None}


def _first_match(rules: Rules, path: str) -> PartitionSpec | None:
    return next((spec for pattern, spec in rules if re.search(pattern, path)), None)


def tree_shardings(tree: Any, mesh: Mesh, rules: Rules) -> Any:
    """Return the shardings of a whole training state, by the parameter that each leaf belongs to.

    Moments and averages hold copies of the parameter tree, so the dictionary keys at the end of a
    leaf's path are the parameter's path. A leaf without dictionary keys (a counter) is replicated.
    """
    leaves, structure = jax.tree.flatten_with_path(tree)
    paths = [_param_path(path) for path, _ in leaves]
    specs = match_rules(rules, {path for path in paths if path})
    return structure.unflatten(
        [NamedSharding(mesh, specs[path] if path else PartitionSpec()) for path in paths]
    )


def _param_path(path: tuple[Any, ...]) -> str:
    return "/".join(str(part.key) for part in path if isinstance(part, jax.tree_util.DictKey))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Return the sharding that splits the leading axis over data and fsdp, and nothing else."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def num_batch_shards(mesh: Mesh) -> int:
    """Return the number of shards of a batch; the devices of a shard hold the same rows."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def host_batch_shard(mesh: Mesh) -> tuple[int, int]:
    """Return (shard index, shard count) of the rows of every batch that this host must load.

    Hosts whose devices hold the same rows, because they do not differ along data and fsdp, have the
    same index and must load the same rows. Shards are numbered in the order of their first rows.

    Raises:
      InputError: The rows of some hosts overlap in part, or some hosts hold more rows than others.
    """
    owners = np.array([device.process_index for device in mesh.devices.flat])
    owners = owners.reshape(mesh.devices.shape)
    rows = [mesh.axis_names.index(axis) for axis in BATCH_AXES]
    owners = np.moveaxis(owners, rows, range(len(rows))).reshape(num_batch_shards(mesh), -1)
    return batch_shard_of_process(owners, jax.process_index())


def batch_shard_of_process(owners: np.ndarray, process: int) -> tuple[int, int]:
    """Return `host_batch_shard` of `process`.

    `owners` int `[batch shards, devices of a shard]` holds the process index of each device.
    """
    held = {owner: np.flatnonzero((owners == owner).any(axis=1)) for owner in np.unique(owners)}
    host_shards = sorted({tuple(shards.tolist()) for shards in held.values()})
    if len({len(shard) for shard in host_shards}) > 1 or sum(map(len, host_shards)) != len(owners):
        raise InputError(
            "The mesh gives hosts unequal or overlapping shards of a batch: make mesh.model times "
            "mesh.window a divisor or a multiple of the number of devices of a host.",
            ["mesh.model", "mesh.window"],
        )
    return host_shards.index(tuple(held[process].tolist())), len(host_shards)


def batch_shardings(
    shapes: Mapping[str, Sequence[int]], mesh: Mesh, window_over: str = "time"
) -> dict[str, NamedSharding]:
    """Return the shardings that `place_batch` gives arrays of these shapes, for any batch size.

    Raises:
      InputError: The clips do not divide over the window axis.
    """
    shardings = dict.fromkeys(shapes, batch_sharding(mesh))
    if mesh.shape[WINDOW_AXIS] > 1 and "video" in shapes:
        shardings["video"] = _clip_sharding(shapes["video"], mesh, window_over)
    return shardings


def place_batch(
    batch: Mapping[str, np.ndarray], mesh: Mesh, window_over: str = "time"
) -> dict[str, jax.Array]:
    """Build global arrays from the rows of this host, which are its `host_batch_shard`.

    Where the mesh has a window axis above 1, `video` `[B, V, T, H, W, 3]` is split over that axis
    too, along `window_over`, "time" or "height".

    Raises:
      InputError: The global number of rows does not divide over the batch axes of the mesh, or the
        clips do not divide over the window axis.
    """
    shardings = batch_shardings(
        {name: rows.shape for name, rows in batch.items()}, mesh, window_over
    )
    shards, hosts = num_batch_shards(mesh), host_batch_shard(mesh)[1]
    placed = {}
    for name, rows in batch.items():
        total = len(rows) * hosts
        _check_batch_size(name, total, shards)
        shape = (total, *rows.shape[1:])
        placed[name] = jax.make_array_from_process_local_data(shardings[name], rows, shape)
    return placed


def _check_batch_size(name: str, rows: int, shards: int) -> None:
    if rows % shards:
        raise InputError(
            f"A batch of {rows} rows ({name}) does not divide into {shards} equal shards, the "
            f"product of the mesh's batch axes: make the batch size a multiple of {shards}.",
            ["the batch size"],
        )


def _clip_sharding(shape: Sequence[int], mesh: Mesh, window_over: str) -> NamedSharding:
    axis, devices = 2 + SPLIT_AXES.index(window_over), mesh.shape[WINDOW_AXIS]
    if shape[axis] % devices:
        raise InputError(
            f"Clips of {shape[axis]} along {window_over} do not divide over mesh.window={devices} "
            f"devices: change the size of the clips or mesh.window.",
            ["mesh.window"],
        )
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES, *[None] * (axis - 1), WINDOW_AXIS))
