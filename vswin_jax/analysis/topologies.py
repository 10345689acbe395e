"""TPU and GPU topologies by name, for ahead-of-time compilation without the devices."""

import importlib.util
import math
import os
import re
from collections.abc import Mapping, Sequence

import jax

from vswin_jax.analysis.gpu_topologies import (
    GPU_CHIPS,
    MAX_GPUS,
    gpu_topology_devices,
    is_gpu_topology,
)
from vswin_jax.errors import InputError
from vswin_jax.runtime.hardware import TPUS, ChipSpec, tpu

# The slices of Cloud TPU (cloud.google.com/tpu/docs: v4, v5e, v5p, v6e), for error messages; other
# slices that the compiler supports can be used as well.
_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_SOLID = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16")
KNOWN = {name: _FLAT if chip.torus_axes == 2 else _SOLID for name, chip in TPUS.items()}

# Accelerator types of one host's chips, in libtpu's names; libtpu warns if it has none.
_ACCELERATOR_TYPES = {"v4": "v4-8", "v5e": "v5litepod-4", "v5p": "v5p-8", "v6e": "v6e-4"}

# Both cores of a v4 chip are one device, as on Cloud TPU. The name of that configuration differs
# between versions of libtpu.
_CHIP_CONFIGS: Mapping[str, tuple[str | None, ...]] = {"v4": ("megacore", "megachip")}


def topology_devices(name: str) -> Sequence[jax.Device]:
    """Return the devices of a topology such as "v5e:4x4" or "h200:8", for compiling only.

    From then on this process computes on its CPU, so that it cannot take a TPU that a training run
    holds.

    Raises:
      InputError: The compiler does not know the topology, or the compiler is not installed.
    """
    if is_gpu_topology(name):
        return gpu_topology_devices(name)
    chip, sizes = _parse(name)
    if importlib.util.find_spec("libtpu") is None:
        raise InputError(
            f"The topology {name!r} needs the TPU compiler, which is not installed: run "
            f'pip install "jax[tpu]" (it needs no TPU), or leave --topology out.'
        )
    _compile_only(chip)
    failures = []
    for chip_config in _CHIP_CONFIGS.get(chip.name, (None,)):
        try:
            return _devices(name, sizes, chip_config)
        except (RuntimeError, NotImplementedError) as error:
            failures.append(str(error).splitlines()[0])
    raise InputError(
        f"The TPU compiler does not support the topology {name!r}: {failures[-1]}. {_known(chip)}"
    )


def _parse(name: str) -> tuple[ChipSpec, tuple[int, ...]]:
    found = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", name)
    if found is None:
        raise InputError(
            f"Expected --topology CHIP:SIZES, such as v5e:4x4, but got {name!r}. {_known()} GPU "
            f"topologies are {', '.join(f'{chip}:1 to {chip}:{MAX_GPUS}' for chip in GPU_CHIPS)}."
        )
    chip, sizes = tpu(found[1]), tuple(map(int, found[2].split("x")))
    if len(sizes) != chip.torus_axes or not 1 <= math.prod(sizes) <= chip.max_slice_chips:
        raise InputError(
            f"Expected a {chip.name} slice of {chip.torus_axes} axes and at most "
            f"{chip.max_slice_chips} chips, but got {name!r}. {_known(chip)}"
        )
    return chip, sizes


def _known(chip: ChipSpec | None = None) -> str:
    names = [chip.name] if chip else KNOWN
    slices = (f"{name}:{size}" for name in names for size in KNOWN[name])
    return f"The known slices are {', '.join(slices)}."


def _compile_only(chip: ChipSpec) -> None:
    # Without these libtpu queries the cloud's metadata server, warns of values that it does not
    # find there, and can be loaded by only one process at a time, as if it used the chips.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", _ACCELERATOR_TYPES[chip.name])
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    jax.config.update("jax_platforms", "cpu")


def _devices(name: str, sizes: Sequence[int], chip_config: str | None) -> Sequence[jax.Device]:
    from jax.experimental import topologies

    settings = {} if chip_config is None else {"chip_config_name": chip_config}
    if math.prod(sizes) < 4:
        # libtpu assumes 2 x 2 chips a host, more than this topology has.
        settings["chips_per_host_bounds"] = (*sizes, 1)[:3]
    return topologies.get_topology_desc(name, "tpu", **settings).devices
