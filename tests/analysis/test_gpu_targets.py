"""The GPUs that XLA can compile for without one of them."""

import pytest

from vswin_jax.analysis.gpu_targets import GPU_TARGETS, target_config
from vswin_jax.runtime.hardware import chip_of


@pytest.mark.parametrize("name", GPU_TARGETS)
def test_the_device_of_a_target_is_found_in_the_table_of_chips(name: str) -> None:
    target = GPU_TARGETS[name]
    # XLA gives the devices of a topology this description as their kind.
    config = target_config(target, cuda=13)
    description = config.partition('device_description_str: "')[2].partition('"')[0]
    assert chip_of(description) == target.chip


def test_the_target_config_of_an_h100() -> None:
    """Its values are those of XLA's h100_sxm.txtpb, apart from the memory of the data sheet."""
    lines = [line.strip() for line in target_config(GPU_TARGETS["h100"], cuda=12).splitlines()]
    assert "core_count: 132" in lines
    assert "fpus_per_core: 128" in lines
    assert "l2_cache_size: 52428800" in lines
    assert "shared_memory_per_core: 233472" in lines
    assert "shared_memory_per_block_optin: 232448" in lines
    assert "cuda_compute_capability { major: 9 minor: 0 }" in lines
    assert "runtime_version { major: 12 }" in lines
    assert "memory_bandwidth: 3350000000000" in lines


def test_the_target_config_of_an_a100() -> None:
    """Its values are those of XLA's a100_sxm_80.txtpb."""
    lines = [line.strip() for line in target_config(GPU_TARGETS["a100-80gb"], 13).splitlines()]
    assert "core_count: 108" in lines
    assert "fpus_per_core: 64" in lines
    assert "shared_memory_per_core: 167936" in lines
    assert "cuda_compute_capability { major: 8 minor: 0 }" in lines
