"""The names of slices and machines, in all the spellings of compilers and clouds."""

import pytest

from vswin_jax.analysis.topology_names import KNOWN, TpuSlice, parse_topology
from vswin_jax.errors import InputError
from vswin_jax.runtime.hardware import TPUS


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        # The compiler's, in any case.
        ("v5e:4x4", "v5e:4x4"),
        ("V4: 2x2x4", "v4:2x2x4"),
        ("tpu7x:2x2x1", "tpu7x:2x2x1"),
        # Cloud TPU counts the chips of v5e and v6e, and the TensorCores of the others.
        ("v5e-16", "v5e:4x4"),
        ("v5litepod-16", "v5e:4x4"),
        ("v6e-8", "v6e:2x4"),
        ("v4-32", "v4:2x2x4"),
        ("v5p-128", "v5p:4x4x4"),
        ("v3-8", "v3:2x2"),
        ("v2-8", "v2:2x2"),
        ("tpu7x-8", "tpu7x:2x2x1"),
        ("TPU v5e-8", "v5e:2x4"),
        # GKE's accelerators and machine types, where the number is one of chips.
        ("tpu-v5-lite-podslice:4x4", "v5e:4x4"),
        ("tpu-v6e-slice:2x4", "v6e:2x4"),
        (
            "cloud.google.com/gke-tpu-accelerator: tpu-v5-lite-podslice "
            "cloud.google.com/gke-tpu-topology: 4x4",
            "v5e:4x4",
        ),
        ("TPU VM v3-8", "v3:2x2"),
        ("v5e-1 TPU", "v5e:1x1"),
        ("tpu-v5p-slice=2x2x2", "v5p:2x2x2"),
        ("ct5lp-hightpu-4t", "v5e:2x2"),
        ("ct5lp-hightpu-8t", "v5e:2x4"),
        ("ct5p-hightpu-4t", "v5p:2x2x1"),
        ("ct4p-hightpu-4t", "v4:2x2x1"),
        ("ct6e-standard-8t", "v6e:2x4"),
        ("tpu7x-standard-4t", "tpu7x:2x2x1"),
        # GPUs as one writes them, as SLURM does, as nvidia-smi and Kubernetes do.
        ("a100:4", "a100:4"),
        ("h100:8", "h100:8"),
        ("b200:8", "b200:8"),
        ("h100-8", "h100:8"),
        ("8xH100", "h100:8"),
        ("a100x4", "a100:4"),
        ("4 x A100 80GB", "a100-80gb:4"),
        ("gpu:a100:4", "a100:4"),
        ("NVIDIA-H100-80GB-HBM3:8", "h100:8"),
        ("NVIDIA A100-SXM4-80GB:8", "a100-80gb:8"),
        ("NVIDIA H100 PCIe:2", "h100-pcie:2"),
        ("NVIDIA GeForce RTX 4090:2", "rtx-4090:2"),
        ("nvidia-l4:4", "l4:4"),
        # Google, AWS, Azure, Oracle, Lambda, NVIDIA.
        ("a2-highgpu-4g", "a100:4"),
        ("a2-ultragpu-8g", "a100-80gb:8"),
        ("a3-highgpu-8g", "h100:8"),
        ("a3-ultragpu-8g", "h200:8"),
        ("a4-highgpu-8g", "b200:8"),
        ("g2-standard-48", "l4:4"),
        ("p4d.24xlarge", "a100:8"),
        ("p4de.24xlarge", "a100-80gb:8"),
        ("p5.48xlarge", "h100:8"),
        ("ml.p5en.48xlarge", "h200:8"),
        ("p6-b200.48xlarge", "b200:8"),
        ("g5.12xlarge", "a10g:4"),
        ("ND96isr_H100_v5", "h100:8"),
        ("Standard_ND96isr_H200_v5", "h200:8"),
        ("Standard_ND96amsr_A100_v4", "a100-80gb:8"),
        ("Standard_NC48ads_A100_v4", "a100-80gb:2"),
        ("ND128isr_NDR_GB200_v6", "gb200:4"),
        ("BM.GPU.H100.8", "h100:8"),
        ("gpu_8x_h100_sxm5", "h100:8"),
        ("dgx-h100", "h100:8"),
    ],
)
def test_the_names_that_are_understood(name: str, canonical: str) -> None:
    assert str(parse_topology(name)) == canonical


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a100", "from a100:1 to a100:8, but got 'a100'"),
        ("NVIDIA-H100-80GB-HBM3", "from h100:1 to h100:8"),
        ("h100:9", "from h100:1 to h100:8, but got 'h100:9'"),
        ("h100:0", "from h100:1"),
        ("h100:-1", "the nearest are .*h100:1 to h100:8"),
        ("a2-megagpu-16g", "from a100:1 to a100:8, but got 'a2-megagpu-16g'"),
        ("V100", "no bfloat16.*a100:1 to a100:8"),
        ("p3.16xlarge", "'p3.16xlarge' .no bfloat16.*a100:1"),
        ("g4dn.xlarge", "no bfloat16.*l4:1"),
        ("RTX-3090", "nearest are rtx-4090:1"),
        ("mi300x:8", "nearest are"),
        ("gpu", "the GPUs, up to 8 of them, a100"),
        ("tpu-v5-lite-podslice", "size of the v5e slice too, such as v5e:4x4"),
        ("4x4", "such as v6e:4x4 or v5e:4x4"),
        ("cloud.google.com/gke-tpu-topology=2x2x2", "tpu7x:2x2x2 or v5p:2x2x2 or v4:2x2x2"),
        ("v9-8", "Unknown TPU 'v9'.*v6e"),
        ("v5e-0", "nearest are v5e-1 .v5e:1x1. and v5e-4"),
        ("v5e:0x4", "at most 256 chips, but got 'v5e:0x4'"),
        ("v5e:3x3", "whole hosts, 2 x 2 chips each"),
        ("v5e:100x100", "at most 256 chips"),
        ("v5e-512", "nearest are v5e-128 .v5e:8x16. and v5e-256"),
        ("v4-10", "10 TensorCores, two a chip.*nearest are v4-8 .v4:2x2x1. and v4-16"),
        ("v5e:4x4x", "Expected --topology CHIP:SIZES"),
        ("v5e:-4x4", "Expected --topology CHIP:SIZES"),
        ("v5e-" + "9" * 5000, "Expected --topology CHIP:SIZES"),
        ("h100:" + "9" * 5000, "nearest are"),
        ("", "Expected --topology CHIP:SIZES"),
    ],
)
def test_other_names_get_the_nearest(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_topology(name)


def test_the_known_slices_are_within_their_chips_limits() -> None:
    for chip, sizes in KNOWN.items():
        for size in sizes:
            found = parse_topology(f"{chip}:{size}")
            assert isinstance(found, TpuSlice)
            assert (found.chip, str(found)) == (TPUS[chip], f"{chip}:{size}")
