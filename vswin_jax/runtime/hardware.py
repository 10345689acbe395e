"""The table of accelerators: peak rates and memory, from their makers' figures."""

import re
from dataclasses import dataclass

from vswin_jax.errors import unknown_name

GIB = 2**30


@dataclass(frozen=True)
class ChipSpec:
    """One accelerator, which JAX counts as one device; all rates are peaks.

    Attributes:
      name: the short name in topologies and messages.
      memory_bytes: device memory that a program may use.
      flops: FLOP/s, dense, bfloat16; a multiply-add counts as 2.
      memory_bandwidth: bytes/s.
      link_bandwidth: bytes/s that the chip sends to its neighbours over all links together (half
        of a figure that counts both directions).
      device_kind: regular expression that matches `jax.Device.device_kind`.
      torus_axes: number of axes of a TPU's interconnect; 0 for a GPU.
      max_slice_chips: chips in the largest slice that one program runs on; 0 without slices.
      devices_per_chip: 2 for a TPU whose TensorCores are devices of their own; the rates above are
        then those of one of them.
      counts_cores: True for a TPU whose slices Cloud TPU names by TensorCores, two a chip, as v4-8.
      compute_capability: NVIDIA's (major, minor) version of a GPU.
    """

    name: str
    memory_bytes: int
    flops: float
    memory_bandwidth: float
    link_bandwidth: float
    device_kind: str
    torus_axes: int = 0
    max_slice_chips: int = 0
    devices_per_chip: int = 1
    counts_cores: bool = False
    compute_capability: tuple[int, int] | None = None


def _gpu(
    name: str,
    device_kind: str,
    compute_capability: tuple[int, int],
    memory_bytes: int,
    flops: float,
    memory_bandwidth: float,
    link_bandwidth: float,
) -> ChipSpec:
    return ChipSpec(
        name,
        memory_bytes,
        flops,
        memory_bandwidth,
        link_bandwidth,
        device_kind,
        compute_capability=compute_capability,
    )


_NVLINK_5 = 900e9
_PCIE_4, _PCIE_5 = 32e9, 64e9

# Google: docs.cloud.google.com/tpu/docs/v2, v3, v4, v5e, v5p, v6e, tpu7x; the links of v2 and v3:
# Jouppi et al., "A Domain-Specific Supercomputer", CACM 2020. The memory is the limit that the TPU
# compiler reports ("exceeds available HBM"), somewhat less than that of those pages. NVIDIA: the
# data sheets of each GPU, figures without sparsity; the memory is that of the sheet. A GeForce's
# rate is that with sums in float32, which XLA uses; cards without NVLink send over PCIe.
# The first match counts: `A100 80GB` and `H100 PCIe` stand before the shorter patterns.
CHIPS = (
    ChipSpec(
        name="v2",
        memory_bytes=int(7.48 * GIB),
        flops=23e12,
        memory_bandwidth=350e9,
        link_bandwidth=124e9,
        device_kind="TPU v2$",
        torus_axes=2,
        max_slice_chips=256,
        devices_per_chip=2,
        counts_cores=True,
    ),
    ChipSpec(
        name="v3",
        memory_bytes=int(15.48 * GIB),
        flops=61.5e12,
        memory_bandwidth=450e9,
        link_bandwidth=164e9,
        device_kind="TPU v3$",
        torus_axes=2,
        max_slice_chips=1024,
        devices_per_chip=2,
        counts_cores=True,
    ),
    ChipSpec(
        name="v4",
        memory_bytes=int(30.75 * GIB),
        flops=275e12,
        memory_bandwidth=1.2e12,
        link_bandwidth=300e9,
        device_kind="TPU v4$",
        torus_axes=3,
        max_slice_chips=4096,
        counts_cores=True,
    ),
    ChipSpec(
        name="v5e",
        memory_bytes=int(15.75 * GIB),
        flops=197e12,
        memory_bandwidth=819e9,
        link_bandwidth=200e9,
        device_kind="TPU v5 ?(lite|e)",
        torus_axes=2,
        max_slice_chips=256,
    ),
    ChipSpec(
        name="v5p",
        memory_bytes=int(95.73 * GIB),
        flops=459e12,
        memory_bandwidth=2.765e12,
        link_bandwidth=600e9,
        device_kind="TPU v5p?$",
        torus_axes=3,
        max_slice_chips=6144,
        counts_cores=True,
    ),
    ChipSpec(
        name="v6e",
        memory_bytes=int(31.24 * GIB),
        flops=918e12,
        memory_bandwidth=1.638e12,
        link_bandwidth=400e9,
        device_kind="TPU v6 ?(lite|e)",
        torus_axes=2,
        max_slice_chips=256,
    ),
    ChipSpec(
        name="tpu7x",
        memory_bytes=int(94.75 * GIB),
        flops=1153.5e12,
        memory_bandwidth=3.69e12,
        link_bandwidth=300e9,
        device_kind="TPU7x",
        torus_axes=3,
        max_slice_chips=9216,
        devices_per_chip=2,
        counts_cores=True,
    ),
    ChipSpec(
        name="A100 80GB",
        memory_bytes=80 * 10**9,
        flops=312e12,
        memory_bandwidth=2.039e12,
        link_bandwidth=300e9,
        device_kind="A100.*80GB",
        compute_capability=(8, 0),
    ),
    ChipSpec(
        name="A100 40GB",
        memory_bytes=40 * 10**9,
        flops=312e12,
        memory_bandwidth=1.555e12,
        link_bandwidth=300e9,
        device_kind="A100",
        compute_capability=(8, 0),
    ),
    ChipSpec(
        name="H100 PCIe",
        memory_bytes=80 * 10**9,
        flops=756e12,
        memory_bandwidth=2.0e12,
        link_bandwidth=300e9,
        device_kind=r"\bH100 PCIe",
        compute_capability=(9, 0),
    ),
    ChipSpec(
        name="H100 SXM",
        memory_bytes=80 * 10**9,
        flops=989e12,
        memory_bandwidth=3.35e12,
        link_bandwidth=450e9,
        device_kind=r"\bH100",
        compute_capability=(9, 0),
    ),
    ChipSpec(
        name="H200 SXM",
        memory_bytes=141 * 10**9,
        flops=989e12,
        memory_bandwidth=4.8e12,
        link_bandwidth=450e9,
        device_kind=r"\bH200",
        compute_capability=(9, 0),
    ),
    # Name, device_kind, compute capability, bytes, FLOP/s, bytes/s of memory and of links.
    _gpu("B200", r"\bB200", (10, 0), 180 * 10**9, 2250e12, 7.7e12, _NVLINK_5),
    _gpu("B300", r"\bB300", (10, 3), 288 * 10**9, 2250e12, 8e12, _NVLINK_5),
    _gpu("GB200", r"\bGB200", (10, 0), 186 * 10**9, 2500e12, 8e12, _NVLINK_5),
    _gpu("L4", r"\bL4$", (8, 9), 24 * 10**9, 121e12, 300e9, _PCIE_4),
    _gpu("L40S", r"\bL40S", (8, 9), 48 * 10**9, 362e12, 864e9, _PCIE_4),
    _gpu("A10", r"\bA10$", (8, 6), 24 * 10**9, 125e12, 600e9, _PCIE_4),
    _gpu("A10G", r"\bA10G", (8, 6), 24 * 10**9, 70e12, 600e9, _PCIE_4),
    _gpu("RTX A6000", "RTX A6000", (8, 6), 48 * 10**9, 154.8e12, 768e9, _PCIE_4),
    _gpu("RTX PRO 6000", "RTX PRO 6000", (12, 0), 96 * 10**9, 503e12, 1.792e12, _PCIE_5),
    _gpu("RTX 4090", "RTX 4090$", (8, 9), 24 * 10**9, 165e12, 1.008e12, _PCIE_4),
    _gpu("RTX 5090", "RTX 5090$", (12, 0), 32 * 10**9, 209e12, 1.792e12, _PCIE_5),
)
TPUS = {chip.name: chip for chip in CHIPS if chip.torus_axes}


def chip_of(device_kind: str) -> ChipSpec | None:
    """Return the chip with this `jax.Device.device_kind`; None for CPUs and unknown devices."""
    return next((chip for chip in CHIPS if re.search(chip.device_kind, device_kind)), None)


def tpu(name: str) -> ChipSpec:
    """Return the TPU with a name such as "v5e".

    Raises:
      InputError: the table has no TPU of that name.
    """
    if name not in TPUS:
        raise unknown_name("TPU", name, TPUS)
    return TPUS[name]
