"""TPU and GPU topologies by name, for ahead-of-time compilation without the devices."""

import importlib.util
import math
import os
from collections.abc import Mapping, Sequence

import jax

from vswin_jax.analysis.gpu_topologies import gpu_topology_devices
from vswin_jax.analysis.topology_names import (
    CHIPS_PER_HOST,
    KNOWN,
    GpuMachine,
    TpuSlice,
    parse_topology,
)
from vswin_jax.errors import InputError
from vswin_jax.runtime.hardware import ChipSpec

# Accelerator types of one host's chips, in libtpu's names; libtpu warns if it has none.
_ACCELERATOR_TYPES = {
    **{"v2": "v2-8", "v3": "v3-8", "v4": "v4-8", "v5e": "v5litepod-4", "v5p": "v5p-8"},
    **{"v6e": "v6e-4", "tpu7x": "tpu7x-8"},
}

# Both cores of a v4 chip are one device, as on Cloud TPU. The name of that configuration differs
# between versions of libtpu.
_CHIP_CONFIGS: Mapping[str, tuple[str | None, ...]] = {"v4": ("megacore", "megachip")}


def topology_devices(name: str) -> Sequence[jax.Device]:
    """Return the devices of a topology such as "v5e:4x4" or "h200:8", for compiling only.

    `name` is any that `parse_topology` knows. From then on this process computes on its CPU, so
    that it cannot take a TPU that a training run holds.

    Raises:
      InputError: The name or the compiler does not know the topology, or the compiler is not
        installed.
    """
    topology = parse_topology(name)
    if isinstance(topology, GpuMachine):
        return gpu_topology_devices(topology)
    if importlib.util.find_spec("libtpu") is None:
        raise InputError(
            f"The topology '{topology}' needs the TPU compiler, which is not installed: run "
            f'pip install "jax[tpu]" (it needs no TPU), or leave --topology out.'
        )
    return _tpu_devices(topology)


def _tpu_devices(topology: TpuSlice) -> Sequence[jax.Device]:
    chip = topology.chip
    _compile_only(chip)
    failures = []
    for chip_config in _CHIP_CONFIGS.get(chip.name, (None,)):
        try:
            return _devices(topology, chip_config)
        except (RuntimeError, NotImplementedError) as error:
            failures.append(str(error).splitlines()[0])
    raise InputError(
        f"The TPU compiler does not support the topology '{topology}': {failures[-1]}. The known "
        f"slices are {', '.join(f'{chip.name}:{size}' for size in KNOWN[chip.name])}."
    )


def _compile_only(chip: ChipSpec) -> None:
    # Without these libtpu queries the cloud's metadata server, warns of values that it does not
    # find there, and can be loaded by only one process at a time, as if it used the chips.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", _ACCELERATOR_TYPES[chip.name])
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    jax.config.update("jax_platforms", "cpu")


def _devices(topology: TpuSlice, chip_config: str | None) -> Sequence[jax.Device]:
    from jax.experimental import topologies

    settings = {} if chip_config is None else {"chip_config_name": chip_config}
    if math.prod(topology.sizes) < CHIPS_PER_HOST:
        # libtpu assumes 2 x 2 chips a host, more than this topology has.
        settings["chips_per_host_bounds"] = (*topology.sizes, 1)[:3]
    return topologies.get_topology_desc(str(topology), "tpu", **settings).devices
