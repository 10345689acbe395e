"""The chip that TPU kernels are for: what they may hold on it, or that there is none."""

import functools
import logging
import math
from dataclasses import dataclass

from jax.experimental.pallas import tpu as pltpu

log = logging.getLogger(__name__)

LANES = 128
# The compiler's own limit, which ours never goes below.
_USUAL = 16 * 2**20


@dataclass(frozen=True)
class Chip:
    """vector_memory: bytes that a kernel may use on each core; cores: those that share a chip."""

    vector_memory: int
    cores: int

    def limit(self, estimate: int) -> int:
        """The bytes to ask for where `estimate` are needed, roughly.

        What is left over serves the program around the kernel.
        """
        return min(max(_USUAL, estimate * 5 // 4), self.vector_memory)


SMALLEST = Chip(vector_memory=_USUAL, cores=1)


def chip_for(platform: str) -> Chip:
    """The TPU that a program is traced for; elsewhere kernels are interpreted for the smallest."""
    if platform != "tpu":
        return SMALLEST
    info = pltpu.get_tpu_info()
    return Chip(info.vmem_capacity_bytes, info.num_cores)


@functools.cache
def warn_of_interpreter(setting: str, platform: str) -> None:
    """Says once that kernels which `setting` of the model chose do not run on a TPU."""
    if platform != "tpu":
        log.warning(
            "%s 'pallas_tpu' is interpreted on %s, which is slow: it is for TPUs, 'auto' takes "
            "what suits the platform",
            setting,
            platform,
        )


def padded(size: int, unit: int = LANES) -> int:
    """The next multiple of `unit`: what `size` lanes take of memory."""
    return math.ceil(size / unit) * unit
