"""One named mesh, the rules that lay parameters out on it, and the placing of batches.

A layout is data: a list of (regular expression of a parameter path, PartitionSpec). The first
match wins and every parameter must match one.
"""

import functools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import flax.traverse_util
import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from vswin_jax.errors import InputError

Rules = Sequence[tuple[str, PartitionSpec]]

BATCH_AXES = ("data", "fsdp")
REPLICATED: Rules = ((".*", PartitionSpec()),)


def make_mesh(
    data: int = -1, fsdp: int = 1, model: int = 1, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """The mesh of all (or the given) devices with the axes data, fsdp and model.

    `data=-1` takes the devices that the other axes leave.

    Raises:
      InputError: the axes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    total = len(devices)
    if fsdp < 1 or model < 1 or (data < 1 and data != -1):
        raise InputError(
            f"Mesh axes must be 1 or above (data may be -1), got data={data}, fsdp={fsdp}, "
            f"model={model}: correct them."
        )
    data = max(total // (fsdp * model), 1) if data == -1 else data
    if data * fsdp * model != total:
        raise InputError(
            f"A mesh of data={data} x fsdp={fsdp} x model={model} needs {data * fsdp * model} "
            f"devices, but there are {total}: make the product equal to it, or use data=-1."
        )
    names = ("data", "fsdp", "model")
    return jax.make_mesh((data, fsdp, model), names, (AxisType.Auto,) * 3, devices=devices)


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


@functools.cache
def host_rows(mesh: Mesh) -> tuple[int, int]:
    """(which part of every batch this host feeds, of how many).

    Hosts that hold the same rows, because they share them along another axis, feed the same part.
    """
    parts = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    rows: dict[int, set[int]] = {}
    for device, (where,) in batch_sharding(mesh).devices_indices_map((parts,)).items():
        rows.setdefault(device.process_index, set()).add(where.start or 0)
    blocks = sorted({tuple(sorted(held)) for held in rows.values()})
    if sum(map(len, blocks)) != parts:
        raise InputError(
            f"A mesh of {describe(mesh)} gives the hosts rows that overlap: make the devices of a "
            f"host divide, or be a multiple of, those of the axes after {' and '.join(BATCH_AXES)}."
        )
    return blocks.index(tuple(sorted(rows[jax.process_index()]))), len(blocks)


def describe(mesh: Mesh) -> str:
    """The axes for people: data=4 x fsdp=2 x model=1."""
    return " x ".join(f"{axis}={size}" for axis, size in mesh.shape.items())


def place_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Each host's rows as one global array per key, split over the batch axes of the mesh.

    Raises:
      InputError: the global number of rows does not divide over those axes.
    """
    sharding = batch_sharding(mesh)
    parts = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    _, hosts = host_rows(mesh)
    for name, rows in batch.items():
        total = len(rows) * hosts
        if total % parts:
            raise InputError(
                f"A batch of {total} rows ({name}) does not divide over {parts} devices: make "
                f"the batch size a multiple of {parts}."
            )
    return {
        name: jax.make_array_from_process_local_data(sharding, rows) for name, rows in batch.items()
    }
