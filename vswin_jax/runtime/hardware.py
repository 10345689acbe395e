"""What the accelerators can do, by the makers' own figures: the one table of the project."""

import re
from dataclasses import dataclass

from vswin_jax.errors import unknown_name

GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """One accelerator, as JAX counts devices; all rates are peaks.

    memory_bytes: what a program may use of it; flops: a second, dense, bfloat16, 2 for a multiply
    and add; memory_bandwidth: bytes a second; link_bandwidth: bytes a second that it can send to
    its neighbours through all its links together (half of a figure that counts both ways);
    device_kind: a regular expression of what `jax.Device.device_kind` says; torus: axes of the
    interconnect; largest: chips in the largest slice that one program runs on (0: no slices);
    compute_capability: of a GPU, what NVIDIA calls the generation of its instructions.
    """

    name: str
    memory_bytes: int
    flops: float
    memory_bandwidth: float
    link_bandwidth: float
    device_kind: str
    torus: int = 0
    largest: int = 0
    compute_capability: tuple[int, int] | None = None


# Google: docs.cloud.google.com/tpu/docs/v4, v5e, v5p, v6e. The memory is what the TPU compiler of
# libtpu 0.0.50 says that there is ("exceeds available HBM"), somewhat less than the 16, 32, 95 and
# 32 GB of those pages. NVIDIA: the data sheets "A100 Tensor Core GPU", "H100 Tensor Core GPU" and
# "H200 Tensor Core GPU", figures without sparsity; the memory is that of the sheet.
CHIPS = (
    Chip("v4", int(30.75 * GIB), 275e12, 1.2e12, 300e9, "TPU v4$", torus=3, largest=4096),
    Chip("v5e", int(15.75 * GIB), 197e12, 819e9, 200e9, "TPU v5 ?(lite|e)", torus=2, largest=256),
    Chip("v5p", int(95.73 * GIB), 459e12, 2.765e12, 600e9, "TPU v5p?$", torus=3, largest=6144),
    Chip(
        "v6e", int(31.24 * GIB), 918e12, 1.638e12, 400e9, "TPU v6 ?(lite|e)", torus=2, largest=256
    ),
    Chip("A100 80GB", 80 * 10**9, 312e12, 2.039e12, 300e9, "A100.*80GB", compute_capability=(8, 0)),
    Chip("A100 40GB", 40 * 10**9, 312e12, 1.555e12, 300e9, "A100", compute_capability=(8, 0)),
    Chip("H100 PCIe", 80 * 10**9, 756e12, 2.0e12, 300e9, r"\bH100 PCIe", compute_capability=(9, 0)),
    Chip("H100 SXM", 80 * 10**9, 989e12, 3.35e12, 450e9, r"\bH100", compute_capability=(9, 0)),
    Chip("H200 SXM", 141 * 10**9, 989e12, 4.8e12, 450e9, r"\bH200", compute_capability=(9, 0)),
)
TPUS = {chip.name: chip for chip in CHIPS if chip.torus}


def chip_of(device_kind: str) -> Chip | None:
    """The chip that JAX calls so; None for a CPU and for what the table does not have."""
    return next((chip for chip in CHIPS if re.search(chip.device_kind, device_kind)), None)


def tpu(name: str) -> Chip:
    """The TPU of a name such as "v5e".

    Raises:
        InputError: the table has no such one.
    """
    if name not in TPUS:
        raise unknown_name("TPU", name, TPUS)
    return TPUS[name]
