"""One named mesh, the tables that lay parameters out on it, and the placing of batches.

A layout is data: a list of (regular expression of a parameter path, PartitionSpec). The first
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

from vswin_jax.errors import InputError
from vswin_jax.sharding.constraints import BATCH_AXES, SPLIT_AXES, WINDOW_AXIS, fitted

Rules = Sequence[tuple[str, PartitionSpec]]

_BIAS_TABLE = "relative_position_bias_table"
REPLICATED: Rules = ((".*", PartitionSpec()),)

# Kernels are [in, out]. What no rule splits (norms, biases, patch embedding: 0.1 % of Swin-L;
# bias tables: 0.7 %) would cost a collective each. A mesh axis of size 1 splits nothing, so the
# first table is that of replicated training too, and the second one serves with and without fsdp.
FSDP: Rules = (
    # By rows: for these the TPU compiler makes reduce-scatters of the gradients, for columns
    # all-reduces, which send twice as much.
    (r"(attn/qkv|attn/proj|fc1|fc2|reduction|head)/kernel$", PartitionSpec("fsdp")),
    (r".*", PartitionSpec()),
)
# Heads and hidden channels over `model` (Megatron-LM, arXiv:1909.08053, section 3).
TENSOR_PARALLEL: Rules = (
    # The columns are [3, heads, dim], so no run of them holds whole heads: the rows are split, and
    # the step turns rows into heads by an all-to-all of this kernel alone.
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
    """The mesh of all (or the given) devices with the axes data, fsdp, model and window.

    `data=-1` takes the devices that the other axes leave. Those of `window` share each clip; as
    the last axis it is that of the nearest neighbours.

    Raises:
      InputError: the axes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    total = len(devices)
    others = {"fsdp": fsdp, "model": model, WINDOW_AXIS: window}
    if min(others.values()) < 1 or (data < 1 and data != -1):
        raise InputError(
            f"Mesh axes must be 1 or above (data may be -1), got data={data}, fsdp={fsdp}, "
            f"model={model}, window={window}: correct them."
        )
    data = max(total // math.prod(others.values()), 1) if data == -1 else data
    sizes = {"data": data, **others}
    if math.prod(sizes.values()) != total:
        raise InputError(
            f"A mesh of {' x '.join(f'{name}={size}' for name, size in sizes.items())} needs "
            f"{math.prod(sizes.values())} devices, but there are {total}: make the product equal "
            f"to it, or use data=-1."
        )
    types = (AxisType.Auto,) * len(sizes)
    return jax.make_mesh(tuple(sizes.values()), tuple(sizes), types, devices=devices)


def mesh_of(config: Any, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh of all (or the given) devices that `config.mesh` says.

    Raises:
      InputError: its axes do not multiply to the number of devices.
    """
    axes = config.mesh
    return make_mesh(axes.data, axes.fsdp, axes.model, axes.window, devices)


def default_rules(mesh: Mesh, params: Any) -> Rules:
    """What the mesh's strategy says of these parameters (arrays or shapes), path by path.

    It is `TENSOR_PARALLEL` where the axis `model` is above 1, else `FSDP`.

    Of a spec, the mesh axes that do not divide the parameter are dropped. Where `model` does not
    divide the heads of a block, its attention is the same on all devices of that axis.
    """
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    table = TENSOR_PARALLEL if mesh.shape["model"] > 1 else FSDP
    whole = dict(mesh.shape) | {"model": 1}
    rules = []
    for path, spec in match_rules(table, flat).items():
        sizes = whole if _has_odd_heads(path, flat, mesh.shape["model"]) else mesh.shape
        rules.append((f"^{re.escape(path)}$", fitted(spec, flat[path].shape, sizes)))
    return rules


def _has_odd_heads(path: str, flat: Mapping[str, Any], model: int) -> bool:
    block, attn, _ = path.partition("/attn/")
    table = flat.get(f"{block}{attn}{_BIAS_TABLE}") if attn else None
    return table is not None and table.shape[-1] % model != 0


def match_rules(rules: Rules, paths: Iterable[str]) -> dict[str, PartitionSpec]:
    """The spec of each parameter path: that of the first rule whose expression is found in it.

    Raises:
      InputError: some paths match no rule; it lists them.
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
    """Shardings for a whole training state, by the parameter that each leaf belongs to.

    Moments and averages hold copies of the parameter tree, so the dictionary keys at the end of a
    leaf's path are the parameter's path; a leaf without any (a counter) is replicated.
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
    """The leading axis over data and fsdp, everything else whole."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def batch_parts(mesh: Mesh) -> int:
    """Into how many parts the rows of a batch are split; a row is on all devices of its part."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def batch_share(mesh: Mesh) -> tuple[int, int]:
    """Which share of every batch this host feeds, and how many shares there are: (index, count).

    Hosts whose devices hold the same rows, because they do not differ along data and fsdp, have the
    same share and must feed the same rows. Shares are numbered in the order of their first rows.

    Raises:
      InputError: the devices of some hosts share a part of their rows, or hold more than others.
    """
    owners = np.array([device.process_index for device in mesh.devices.flat])
    owners = owners.reshape(mesh.devices.shape)
    rows = [mesh.axis_names.index(axis) for axis in BATCH_AXES]
    owners = np.moveaxis(owners, rows, range(len(rows))).reshape(batch_parts(mesh), -1)
    return share_of(owners, jax.process_index())


def share_of(owners: np.ndarray, process: int) -> tuple[int, int]:
    """`batch_share` of a process, from the process [parts of a batch, devices] of each device."""
    held = {owner: np.flatnonzero((owners == owner).any(axis=1)) for owner in np.unique(owners)}
    shares = sorted({tuple(parts.tolist()) for parts in held.values()})
    if len({len(share) for share in shares}) > 1 or sum(map(len, shares)) != len(owners):
        raise InputError(
            "The mesh gives hosts unequal or overlapping shares of a batch: make mesh.model times "
            "mesh.window a divisor or a multiple of the number of devices of a host."
        )
    return shares.index(tuple(held[process].tolist())), len(shares)


def batch_shardings(
    shapes: Mapping[str, Sequence[int]], mesh: Mesh, window_over: str = "time"
) -> dict[str, NamedSharding]:
    """How `place_batch` lays out arrays of a batch, by their shapes, whose rows do not matter.

    Raises:
      InputError: the clips do not divide over the window axis.
    """
    shardings = dict.fromkeys(shapes, batch_sharding(mesh))
    if mesh.shape[WINDOW_AXIS] > 1 and "video" in shapes:
        shardings["video"] = _clip_sharding(shapes["video"], mesh, window_over)
    return shardings


def place_batch(
    batch: Mapping[str, np.ndarray], mesh: Mesh, window_over: str = "time"
) -> dict[str, jax.Array]:
    """This host's rows, those of its `batch_share`, as a part of one global array per key.

    Where the mesh has a window axis above 1, `video` [B, V, T, H, W, 3] is split over it too, along
    `window_over`, "time" or "height".

    Raises:
      InputError: the global number of rows does not divide over the batch axes of the mesh, or the
        clips do not divide over the window axis.
    """
    shardings = batch_shardings(
        {name: rows.shape for name, rows in batch.items()}, mesh, window_over
    )
    parts, shares = batch_parts(mesh), batch_share(mesh)[1]
    placed = {}
    for name, rows in batch.items():
        total = len(rows) * shares
        if total % parts:
            raise InputError(
                f"A batch of {total} rows ({name}) does not divide over {parts} devices: make "
                f"the batch size a multiple of {parts}."
            )
        shape = (total, *rows.shape[1:])
        placed[name] = jax.make_array_from_process_local_data(shardings[name], rows, shape)
    return placed


def _clip_sharding(shape: Sequence[int], mesh: Mesh, window_over: str) -> NamedSharding:
    axis, devices = 2 + SPLIT_AXES.index(window_over), mesh.shape[WINDOW_AXIS]
    if shape[axis] % devices:
        raise InputError(
            f"Clips of {shape[axis]} along {window_over} do not divide over mesh.window={devices} "
            f"devices: change the size of the clips or mesh.window."
        )
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES, *[None] * (axis - 1), WINDOW_AXIS))
