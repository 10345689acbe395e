"""Target configs of NVIDIA GPUs, from which XLA compiles for them without asking a driver."""

from collections.abc import Mapping
from dataclasses import dataclass

from vswin_jax.runtime.hardware import CHIPS, ChipSpec


@dataclass(frozen=True)
class GpuTarget:
    """A GPU as XLA's compiler sees it.

    Attributes:
      chip: The peaks and the memory, for reports.
      cores: The streaming multiprocessors.
      l2_bytes: The second-level cache.
      clock_ghz: The boost clock.
    """

    chip: ChipSpec
    cores: int
    l2_bytes: int
    clock_ghz: float


def _targets(rows: Mapping[str, tuple[str, int, int, float]]) -> dict[str, GpuTarget]:
    chips = {chip.name: chip for chip in CHIPS}
    return {
        name: GpuTarget(chips[full_name], cores, l2_bytes, clock_ghz)
        for name, (full_name, cores, l2_bytes, clock_ghz) in rows.items()
    }


# By the names in topologies: (name in CHIPS, cores, bytes of L2, GHz). The values are those of
# XLA's xla/backends/gpu/target_config/specs, and of NVIDIA's architecture papers (Ada, Ampere,
# Blackwell) for l4, l40s, a10, a10g and the GeForce cards, which XLA has no file for.
GPU_TARGETS = _targets(
    {
        "a100": ("A100 40GB", 108, 41943040, 1.41),
        "a100-80gb": ("A100 80GB", 108, 41943040, 1.41),
        "h100": ("H100 SXM", 132, 52428800, 1.98),
        "h100-pcie": ("H100 PCIe", 114, 52428800, 1.755),
        "h200": ("H200 SXM", 132, 52428800, 1.98),
        "b200": ("B200", 148, 132644864, 1.965),
        "b300": ("B300", 158, 135528448, 1.965),
        "gb200": ("GB200", 152, 135528448, 2.062),
        "l4": ("L4", 58, 50331648, 2.04),
        "l40s": ("L40S", 142, 100663296, 2.52),
        "a10": ("A10", 72, 6291456, 1.695),
        "a10g": ("A10G", 80, 6291456, 1.71),
        "rtx-a6000": ("RTX A6000", 84, 6291456, 1.8),
        "rtx-pro-6000": ("RTX PRO 6000", 188, 134217728, 2.6),
        "rtx-4090": ("RTX 4090", 128, 75497472, 2.52),
        "rtx-5090": ("RTX 5090", 170, 100663296, 2.407),
    }
)


@dataclass(frozen=True)
class _Limits:
    """Limits of a multiprocessor, by compute capability (CUDA Programming Guide, appendix)."""

    shared_memory: int
    shared_memory_per_block: int
    threads: int
    fpus: int


_AMPERE = _Limits(167936, 166912, 2048, 64)
_SMALL = _Limits(102400, 101376, 1536, 128)
_HOPPER = _Limits(233472, 232448, 2048, 128)
_LIMITS = {
    (8, 0): _AMPERE,
    (8, 6): _SMALL,
    (8, 9): _SMALL,
    (9, 0): _HOPPER,
    (10, 0): _HOPPER,
    (10, 3): _HOPPER,
    (12, 0): _SMALL,
}

# A stream_executor.GpuTargetConfigProto, which XLA otherwise fills by querying the driver.
_TARGET_CONFIG = """
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {limits.shared_memory}
  threads_per_core_limit: {limits.threads}
  core_count: {target.cores}
  fpus_per_core: {limits.fpus}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {chip.memory_bandwidth:.0f}
  l2_cache_size: {target.l2_bytes}
  clock_rate_ghz: {target.clock_ghz}
  device_memory_size: {chip.memory_bytes}
  shared_memory_per_block_optin: {limits.shared_memory_per_block}
  cuda_compute_capability {{ major: {major} minor: {minor} }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
runtime_version {{ major: {cuda} }}
device_description_str: "NVIDIA {chip.name}"
"""


def target_config(target: GpuTarget, cuda: int) -> str:
    """Return XLA's target config of a GPU for a major version of CUDA, as text."""
    chip = target.chip
    major, minor = chip.compute_capability
    return _TARGET_CONFIG.format(
        target=target,
        chip=chip,
        limits=_LIMITS[chip.compute_capability],
        major=major,
        minor=minor,
        cuda=cuda,
    )
