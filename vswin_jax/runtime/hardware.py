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
    compute_capability: tuple[int, int] | None = None


# Google: docs.cloud.google.com/tpu/docs/v4, v5e, v5p, v6e. The memory is the limit that the TPU
# compiler of libtpu 0.0.50 reports ("exceeds available HBM"), somewhat less than the 16, 32, 95
# and 32 GB of those pages. NVIDIA: the data sheets "A100 Tensor Core GPU", "H100 Tensor Core GPU"
# and "H200 Tensor Core GPU", figures without sparsity; the memory is that of the sheet.
# The first match counts: `A100 80GB` and `H100 PCIe` stand before the shorter patterns.
CHIPS = (
    ChipSpec(
        name="v4",
        memory_bytes=int(30.75 * GIB),
        flops=275e12,
        memory_bandwidth=1.2e12,
        link_bandwidth=300e9,
        device_kind="TPU v4$",
        torus_axes=3,
        max_slice_chips=4096,
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
