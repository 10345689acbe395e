"""Boxes of NVIDIA GPUs by name, for XLA's GPU compiler alone: no GPU has to be there.

With `config.train.autotune` XLA chooses kernels by timing them, which only the GPU itself allows:
here each product and fusion gets the first that compiles then.
"""

import importlib.util
import re
from collections.abc import Mapping, Sequence

import jax

from vswin_jax.errors import InputError
from vswin_jax.runtime.hardware import CHIPS, Chip

# By their short names. They share a die, so that XLA is told the same of both but for the memory.
BOXES: Mapping[str, Chip] = {
    name: next(chip for chip in CHIPS if chip.name == of_table)
    for name, of_table in (("h100", "H100 SXM"), ("h200", "H200 SXM"))
}
LARGEST = 8

# What XLA asks the driver otherwise, a stream_executor.GpuTargetConfigProto; the values are those
# of its own h100_sxm.txtpb and h200.txtpb in xla/backends/gpu/target_config/specs.
_TARGET = """
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: 233472
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {bandwidth:.0f}
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  device_memory_size: {memory}
  shared_memory_per_block_optin: 232448
  cuda_compute_capability {{ major: {major} minor: {minor} }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
runtime_version {{ major: {cuda} }}
device_description_str: "NVIDIA {name}"
"""


def is_box(topology: str) -> bool:
    """Whether a topology is a box of GPUs, and not a TPU slice."""
    return topology.partition(":")[0] in BOXES


def box_devices(name: str) -> Sequence[jax.Device]:
    """The GPUs of a box such as "h200:8", for lowering and compiling only.

    Raises:
        InputError: a name that is not one of a box, or the compiler is not installed.
    """
    chip_name, _, count = name.partition(":")
    if not re.fullmatch(r"\d+", count) or not 1 <= int(count) <= LARGEST:
        raise InputError(
            f"Expected {chip_name}:GPUS, from {chip_name}:1 to {chip_name}:{LARGEST}, but {name!r} "
            f"came."
        )
    cuda = _cuda()
    if cuda is None:
        raise InputError(
            f"The topology {name!r} needs XLA's compiler for GPUs, which is not installed: say "
            f'pip install "jax[cuda13]" (it needs no GPU), or leave --topology out.'
        )
    jax.config.update("jax_platforms", "cpu")
    from jax.experimental import topologies

    settings = {"target_config": _target(BOXES[chip_name], cuda), "topology": f"1x1x{count}"}
    try:
        return topologies.get_topology_desc(platform="cuda", **settings).devices
    except (RuntimeError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"XLA's compiler for GPUs refuses the topology {name!r}: {reason}. Install the latest "
            f'with pip install -U "jax[cuda{cuda}]".'
        ) from None


def _cuda() -> int | None:
    """The version of CUDA that the installed compiler is of."""
    for version in (13, 12):
        if importlib.util.find_spec(f"jax_cuda{version}_plugin"):
            return version
    return None


def _target(chip: Chip, cuda: int) -> str:
    major, minor = chip.compute_capability
    return _TARGET.format(
        bandwidth=chip.memory_bandwidth,
        memory=chip.memory_bytes,
        major=major,
        minor=minor,
        cuda=cuda,
        name=chip.name,
    )
