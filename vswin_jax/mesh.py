"""One named mesh, the rules that lay parameters out on it, and the placing of batches.

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

from vswin_jax.attention import SPLIT_AXES, WINDOW_AXIS
from vswin_jax.errors import InputError

Rules = Sequence[tuple[str, PartitionSpec]]

BATCH_AXES = ("data", "fsdp")
REPLICATED: Rules = ((".*", PartitionSpec()),)


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


def mesh_of(config: Any) -> Mesh:
    """The mesh of all devices that `config.mesh` says.

    Raises:
      InputError: its axes do not multiply to the number of devices.
    """
    axes = config.mesh
    return make_mesh(axes.data, axes.fsdp, axes.model, axes.window)


def default_rules(mesh: Mesh, params: Any) -> Rules:
    """The rules that use the mesh's axes: replicated, or sharded over fsdp where that is above 1.

    `params` are arrays or shapes.

    Raises:
      InputError: the model axis is above 1, which these layouts would leave idle.
    """
    if mesh.shape["model"] > 1:
        raise InputError(
            f"No layout splits the model over the 'model' axis yet, got "
            f"model={mesh.shape['model']}: use mesh.model=1."
        )
    return fsdp_rules(mesh, params) if mesh.shape["fsdp"] > 1 else REPLICATED


def fsdp_rules(mesh: Mesh, params: Any) -> Rules:
    """Each parameter split over fsdp along its largest axis that divides, else replicated."""
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    size = mesh.shape["fsdp"]
    return [
        (f"^{re.escape(path)}$", _split_largest(leaf.shape, size)) for path, leaf in flat.items()
    ]


def _split_largest(shape: Sequence[int], size: int) -> PartitionSpec:
    axes = [axis for axis, length in enumerate(shape) if length and length % size == 0]
    if not axes:
        return PartitionSpec()
    largest = max(axes, key=lambda axis: shape[axis])
    return PartitionSpec(*[None] * largest, "fsdp")


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


def place_batch(
    batch: Mapping[str, np.ndarray], mesh: Mesh, window_over: str = "time"
) -> dict[str, jax.Array]:
    """Each host's rows as one global array per key, split over the batch axes of the mesh.

    Where the mesh has a window axis above 1, `video` [B, V, T, H, W, 3] is split over it too, along
    `window_over`, "time" or "height".

    Raises:
      InputError: the global number of rows does not divide over those axes, the clips do not
        divide over the window axis, or devices of several hosts would share a clip.
    """
    shardings = dict.fromkeys(batch, batch_sharding(mesh))
    if mesh.shape[WINDOW_AXIS] > 1 and "video" in batch:
        shardings["video"] = _clip_sharding(batch["video"].shape, mesh, window_over)
    parts = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    for name, rows in batch.items():
        total = len(rows) * jax.process_count()
        if total % parts:
            raise InputError(
                f"A batch of {total} rows ({name}) does not divide over {parts} devices: make "
                f"the batch size a multiple of {parts}."
            )
    return {
        name: jax.make_array_from_process_local_data(shardings[name], rows)
        for name, rows in batch.items()
    }


def _clip_sharding(shape: Sequence[int], mesh: Mesh, window_over: str) -> NamedSharding:
    axis, devices = 2 + SPLIT_AXES.index(window_over), mesh.shape[WINDOW_AXIS]
    if shape[axis] % devices:
        raise InputError(
            f"Clips of {shape[axis]} along {window_over} do not divide over mesh.window={devices} "
            f"devices: change the size of the clips or mesh.window."
        )
    groups = np.moveaxis(mesh.devices, mesh.axis_names.index(WINDOW_AXIS), -1).reshape(-1, devices)
    if any(len({device.process_index for device in group}) > 1 for group in groups):
        raise InputError(
            f"With mesh.window={devices} devices of several processes share a clip, but each "
            f"process reads its own videos: make mesh.window a divisor of the "
            f"{jax.local_device_count()} devices of a process."
        )
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES, *[None] * (axis - 1), WINDOW_AXIS))
