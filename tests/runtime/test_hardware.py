"""The table of accelerators."""

import pytest

from vswin_jax.errors import InputError
from vswin_jax.runtime.hardware import CHIPS, chip_of, tpu


@pytest.mark.parametrize(
    ("device_kind", "name"),
    [
        ("TPU v2", "v2"),
        ("TPU v3", "v3"),
        ("TPU v4", "v4"),
        ("TPU v5 lite", "v5e"),
        ("TPU v5e", "v5e"),
        ("TPU v5", "v5p"),
        ("TPU v5p", "v5p"),
        ("TPU v6 lite", "v6e"),
        ("TPU v6e", "v6e"),
        ("TPU7x", "tpu7x"),
        ("NVIDIA A100-SXM4-40GB", "A100 40GB"),
        ("NVIDIA A100-SXM4-80GB", "A100 80GB"),
        ("NVIDIA A100 80GB PCIe", "A100 80GB"),
        ("NVIDIA H100 80GB HBM3", "H100 SXM"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA H200", "H200 SXM"),
        ("NVIDIA B200", "B200"),
        ("NVIDIA B300 SXM6 AC", "B300"),
        ("NVIDIA GB200", "GB200"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA A10G", "A10G"),
        ("NVIDIA RTX A6000", "RTX A6000"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "RTX PRO 6000"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA GeForce RTX 5090", "RTX 5090"),
    ],
)
def test_a_chip_is_found_by_its_device_kind(device_kind: str, name: str) -> None:
    chip = chip_of(device_kind)
    assert chip is not None
    assert chip.name == name


@pytest.mark.parametrize(
    "device_kind",
    ["cpu", "TPU v4 lite", "NVIDIA GH200 480GB", "TPU8x", "NVIDIA L40", "Tesla V100-SXM2-16GB"],
)
def test_unknown_devices_have_no_entry(device_kind: str) -> None:
    assert chip_of(device_kind) is None


def test_tpus_are_found_by_name() -> None:
    assert tpu("v5e").flops == 197e12
    with pytest.raises(InputError, match=r"Unknown TPU 'v5x'.*known ones are .*v4, v5e, v5p, v6e"):
        tpu("v5x")


def test_the_balance_of_every_chip_is_plausible() -> None:
    # FLOP per byte of memory traffic; a wrong unit in the table is off by a factor of 8 or more.
    for chip in CHIPS:
        assert 60 < chip.flops / chip.memory_bandwidth < 600, chip.name
