"""The conditions that the kernels put on the chip that they are compiled for."""

import jax
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

from vswin_jax.kernels.chip_memory import unsupported_chip_reason


@pytest.mark.parametrize(
    ("device_kind", "reason"),
    [
        ("TPU v2", "it needs a TPU v4 or newer, not a v2"),
        ("TPU v3", "it needs a TPU v4 or newer, not a v3"),
        ("TPU v4", None),
        ("TPU v5 lite", None),
        ("TPU7x", None),
    ],
)
def test_the_kernels_need_a_tpu_v4(device_kind: str, reason: str | None) -> None:
    device = AbstractDevice(device_kind=device_kind, num_cores=1, platform="tpu")
    mesh = AbstractMesh((1,), ("data",), (AxisType.Auto,), abstract_device=device)
    with jax.sharding.use_abstract_mesh(mesh):
        assert unsupported_chip_reason("tpu") == reason


def test_interpreted_kernels_run_on_any_platform() -> None:
    assert unsupported_chip_reason("cpu") is None
