"""Finds a GPU or a TPU in this machine that JAX, as it was installed, cannot use."""

import re
from collections.abc import Mapping
from pathlib import Path

# The first driver that CUDA 13 runs with, from NVIDIA's "CUDA Compatibility", table 2.
_CUDA_13_DRIVER = 580
_GOOGLE = "0x1ae0"
# PCI ids of TPUs from v2 to 7x, as in jax/_src/hardware_utils.py; Google's network card has
# another one.
_TPU_IDS = ("0x0027", "0x0056", "0x005e", "0x0062", "0x0063", "0x006f", "0x0076")
_TPU_VARIABLES = ("TPU_ACCELERATOR_TYPE", "TPU_WORKER_HOSTNAMES", "TPU_CHIPS_PER_HOST_BOUNDS")


def unused_accelerator(
    platform: str, environment: Mapping[str, str], root: Path = Path("/")
) -> str | None:
    """Return a warning if JAX runs on a CPU (`platform`) beside a GPU or a TPU; else None.

    Also None if the user has chosen the platform by JAX_PLATFORMS. `root` is the directory that
    holds `dev`, `proc` and `sys`.
    """
    chosen = environment.get("JAX_PLATFORMS") or environment.get("JAX_PLATFORM_NAME")
    if platform != "cpu" or chosen:
        return None
    if _has_tpu(environment, root):
        return _warning("a TPU", 'pip install -U "jax[tpu]"')
    if any((root / "dev").glob("nvidia[0-9]*")) or (root / "usr/lib/wsl/lib/nvidia-smi").exists():
        return _warning("an NVIDIA GPU", f'pip install -U "{_cuda_package(root)}"')
    if any((root / "proc/driver/nvidia/gpus").glob("*")):
        return (
            "JAX runs on the CPU: this machine has an NVIDIA GPU, but this container was started "
            "without it; add --gpus all to docker run, or set JAX_PLATFORMS=cpu to train on the "
            "CPU without this warning."
        )
    return None


def _warning(what: str, install: str) -> str:
    return (
        f"JAX runs on the CPU although this machine has {what}: install JAX for it by {install}, "
        f"or set JAX_PLATFORMS=cpu to use the CPU without this warning."
    )


def _has_tpu(environment: Mapping[str, str], root: Path) -> bool:
    if any(environment.get(name) for name in _TPU_VARIABLES):
        return True
    devices = (root / "sys/bus/pci/devices").glob("*")
    return any(
        _read(device / "vendor") == _GOOGLE and _read(device / "device") in _TPU_IDS
        for device in devices
    )


def _cuda_package(root: Path) -> str:
    """Return the extra of JAX for the installed driver, and the newer one if that is unknown."""
    version = re.search(
        r"Module(?: for \S+)?\s+(\d+)\.", _read(root / "proc/driver/nvidia/version")
    )
    is_old = version is not None and int(version[1]) < _CUDA_13_DRIVER
    return "jax[cuda12]" if is_old else "jax[cuda13]"


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
