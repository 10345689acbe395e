"""VMEM capacity and cores of the TPU that kernels are compiled for."""

import functools
import logging
import math
from dataclasses import dataclass

from vswin_jax.runtime.lazy_module import LazyModule

pltpu = LazyModule("jax.experimental.pallas.tpu")


log = logging.getLogger(__name__)

LANES = 128
# The limit that the compiler sets by default. Ours is never lower.
_DEFAULT_VMEM_LIMIT = 16 * 2**20


@dataclass(frozen=True)
class ChipMemory:
    """Memory of a chip, as far as the choice of blocks depends on it.

    Attributes:
      vmem_bytes: bytes of VMEM that a kernel may use on each core.
      cores: TensorCores that share a chip and run one kernel together.
    """

    vmem_bytes: int
    cores: int

    def vmem_limit(self, estimate: int) -> int:
        """Return the VMEM limit in bytes for a kernel that needs about `estimate` bytes.

        It is not simply the capacity, because XLA keeps arrays of the surrounding program in the
        VMEM that a kernel leaves.
        """
        return min(max(_DEFAULT_VMEM_LIMIT, estimate * 5 // 4), self.vmem_bytes)


SMALLEST = ChipMemory(vmem_bytes=_DEFAULT_VMEM_LIMIT, cores=1)


def chip_memory_for(platform: str) -> ChipMemory:
    """Return the memory of the TPU being traced for, or of the smallest TPU on other platforms.

    Kernels are interpreted on other platforms, where any blocks would do.
    """
    if platform != "tpu":
        return SMALLEST
    info = pltpu.get_tpu_info()
    return ChipMemory(vmem_bytes=info.vmem_capacity_bytes, cores=info.num_cores)


def unsupported_chip_reason(platform: str) -> str | None:
    """Return the reason why no kernel compiles for the TPU being traced for, or None."""
    if platform != "tpu":
        return None
    generation = pltpu.get_tpu_info().generation
    return f"it needs a TPU v4 or newer, not a v{generation}" if generation < 4 else None


@functools.cache
def warn_if_interpreted(setting: str, platform: str) -> None:
    """Log one warning if the model's `setting` names TPU kernels on another platform."""
    if platform != "tpu":
        log.warning(
            "%s 'pallas_tpu' is interpreted on %s, which is slow: its kernels are for TPUs. Use "
            "'auto', which chooses an implementation for the platform.",
            setting,
            platform,
        )


def round_up(size: int, multiple: int = LANES) -> int:
    """Return the next multiple of `multiple`; arrays are padded to whole tiles in VMEM."""
    return math.ceil(size / multiple) * multiple
