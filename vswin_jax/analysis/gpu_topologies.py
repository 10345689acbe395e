"""Topologies of NVIDIA GPUs on one host by name, for ahead-of-time compilation without a GPU.

With `config.train.autotune` XLA chooses kernels by timing them on the GPU. Without a GPU it takes
the first kernel that compiles for each product and fusion.
"""

import importlib.util
import re
from collections.abc import Mapping, Sequence

import jax

from vswin_jax.errors import InputError
from vswin_jax.runtime.hardware import CHIPS, ChipSpec

# By their short names. Both have the same die, so their target configs differ only in memory.
GPU_CHIPS: Mapping[str, ChipSpec] = {
    name: next(chip for chip in CHIPS if chip.name == full_name)
    for name, full_name in (("h100", "H100 SXM"), ("h200", "H200 SXM"))
}
MAX_GPUS = 8

# A stream_executor.GpuTargetConfigProto, which XLA otherwise fills by querying the driver. The
# values are those of XLA's h100_sxm.txtpb and h200.txtpb in xla/backends/gpu/target_config/specs.
_TARGET_CONFIG = """
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


def is_gpu_topology(topology: str) -> bool:
    """Return True for GPU topologies such as `h200:8`."""
    return topology.partition(":")[0] in GPU_CHIPS


def gpu_topology_devices(name: str) -> Sequence[jax.Device]:
    """Return the devices of a GPU topology such as "h200:8", for lowering and compiling only.

    Raises:
      InputError: The name is not that of a GPU topology, or the compiler is not installed.
    """
    chip_name, _, count = name.partition(":")
    if not re.fullmatch(r"\d+", count) or not 1 <= int(count) <= MAX_GPUS:
        raise InputError(
            f"Expected {chip_name}:GPUS, from {chip_name}:1 to {chip_name}:{MAX_GPUS}, but got "
            f"{name!r}."
        )
    cuda = _cuda_version()
    if cuda is None:
        raise InputError(
            f"The topology {name!r} needs XLA's compiler for GPUs, which is not installed: run "
            f'pip install "jax[cuda13]" (it needs no GPU), or leave --topology out.'
        )
    return _devices(name, GPU_CHIPS[chip_name], count, cuda)


def _devices(name: str, chip: ChipSpec, count: str, cuda: int) -> Sequence[jax.Device]:
    jax.config.update("jax_platforms", "cpu")
    from jax.experimental import topologies

    settings = {"target_config": _target_config(chip, cuda), "topology": f"1x1x{count}"}
    try:
        return topologies.get_topology_desc(platform="cuda", **settings).devices
    except (RuntimeError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"XLA's compiler for GPUs does not support the topology {name!r}: {reason}. Install "
            f'the latest with pip install -U "jax[cuda{cuda}]".'
        ) from None


def _cuda_version() -> int | None:
    """Return the major CUDA version of the installed compiler, or None if there is none."""
    for version in (13, 12):
        if importlib.util.find_spec(f"jax_cuda{version}_plugin"):
            return version
    return None


def _target_config(chip: ChipSpec, cuda: int) -> str:
    major, minor = chip.compute_capability
    return _TARGET_CONFIG.format(
        bandwidth=chip.memory_bandwidth,
        memory=chip.memory_bytes,
        major=major,
        minor=minor,
        cuda=cuda,
        name=chip.name,
    )
