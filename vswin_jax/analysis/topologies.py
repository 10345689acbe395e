"""TPU slices and boxes of GPUs by name, for their compilers alone: none has to be there."""

import importlib.util
import math
import os
import re
from collections.abc import Mapping, Sequence

import jax

from vswin_jax.analysis.gpu_boxes import BOXES, LARGEST, box_devices, is_box
from vswin_jax.errors import InputError
from vswin_jax.runtime.hardware import TPUS, Chip, tpu

# The slices that Google rents out (cloud.google.com/tpu/docs: v4, v5e, v5p, v6e); others that the
# compiler knows will do as well.
_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_SOLID = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16")
KNOWN = {name: _FLAT if chip.torus == 2 else _SOLID for name, chip in TPUS.items()}

# A name that libtpu can read, of one host's chips: without one it warns.
_ACCELERATOR_TYPES = {"v4": "v4-8", "v5e": "v5litepod-4", "v5p": "v5p-8", "v6e": "v6e-4"}

# Both cores of a v4 chip work as one device, as on Cloud TPU; libtpu has named that twice.
_CHIP_CONFIGS: Mapping[str, tuple[str | None, ...]] = {"v4": ("megacore", "megachip")}


def topology_devices(name: str) -> Sequence[jax.Device]:
    """The chips of a slice such as "v5e:4x4", "v4:2x2x4" or "h200:8", for compiling only.

    This process computes on its CPU from then on, whatever else it could use: nothing may take a
    TPU that a training run holds.

    Raises:
        InputError: a name that the compiler does not know, or the compiler is not installed.
    """
    if is_box(name):
        return box_devices(name)
    chip, sizes = _parse(name)
    if importlib.util.find_spec("libtpu") is None:
        raise InputError(
            f"The topology {name!r} needs the TPU compiler, which is not installed: say "
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
        f"The TPU compiler refuses the topology {name!r}: {failures[-1]}. {_known(chip)}"
    )


def _parse(name: str) -> tuple[Chip, tuple[int, ...]]:
    found = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", name)
    if found is None:
        raise InputError(
            f"Expected --topology CHIP:SIZES, such as v5e:4x4, but {name!r} came. {_known()} Boxes "
            f"of GPUs are {', '.join(f'{box}:1 to {box}:{LARGEST}' for box in BOXES)}."
        )
    chip, sizes = tpu(found[1]), tuple(map(int, found[2].split("x")))
    if len(sizes) != chip.torus or not 1 <= math.prod(sizes) <= chip.largest:
        raise InputError(
            f"Expected a {chip.name} slice of {chip.torus} axes and at most {chip.largest} chips "
            f"but {name!r} came. {_known(chip)}"
        )
    return chip, sizes


def _known(chip: Chip | None = None) -> str:
    names = [chip.name] if chip else KNOWN
    slices = (f"{name}:{size}" for name in names for size in KNOWN[name])
    return f"The known slices are {', '.join(slices)}."


def _compile_only(chip: Chip) -> None:
    # Else libtpu asks the cloud's metadata server what it runs on, warns of what that does not
    # say, and lets one process alone load it, as if each wanted the chips.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", _ACCELERATOR_TYPES[chip.name])
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    jax.config.update("jax_platforms", "cpu")


def _devices(name: str, sizes: Sequence[int], chip_config: str | None) -> Sequence[jax.Device]:
    from jax.experimental import topologies

    settings = {} if chip_config is None else {"chip_config_name": chip_config}
    if math.prod(sizes) < 4:
        # The host that is assumed has 2 x 2 chips.
        settings["chips_per_host_bounds"] = (*sizes, 1)[:3]
    return topologies.get_topology_desc(name, "tpu", **settings).devices
