from pathlib import Path

import pytest

from vswin_jax.runtime.unused_accelerator import unused_accelerator

NEW_DRIVER = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build"
OLD_DRIVER = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 2024"


def machine(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def pci(vendor: str, device: str) -> dict[str, str]:
    folder = "sys/bus/pci/devices/0000:00:05.0"
    return {f"{folder}/vendor": f"{vendor}\n", f"{folder}/device": f"{device}\n"}


@pytest.mark.parametrize(
    ("files", "environment", "install"),
    [
        ({"dev/nvidia0": "", "proc/driver/nvidia/version": NEW_DRIVER}, {}, "jax[cuda13]"),
        ({"dev/nvidia3": "", "proc/driver/nvidia/version": OLD_DRIVER}, {}, "jax[cuda12]"),
        ({"dev/nvidia0": ""}, {}, "jax[cuda13]"),
        ({"usr/lib/wsl/lib/nvidia-smi": ""}, {}, "jax[cuda13]"),
        (pci("0x1ae0", "0x0063"), {}, "jax[tpu]"),
        ({}, {"TPU_ACCELERATOR_TYPE": "v5litepod-8"}, "jax[tpu]"),
    ],
    ids=["cuda 13", "old driver", "unknown driver", "wsl", "tpu", "tpu by its environment"],
)
def test_the_install_line_of_an_accelerator_that_is_not_used(
    files: dict[str, str], environment: dict[str, str], install: str, tmp_path: Path
) -> None:
    root = machine(tmp_path, files)
    warning = unused_accelerator("cpu", environment, root)
    assert warning is not None
    assert f'pip install -U "{install}"' in warning
    assert unused_accelerator("cpu", {**environment, "JAX_PLATFORMS": "cpu"}, root) is None
    assert unused_accelerator("gpu", environment, root) is None


@pytest.mark.parametrize(
    "files",
    [{}, pci("0x1ae0", "0x0042"), {"dev/accel/accel0": ""}, {"dev/nvidiactl": ""}],
    ids=["plain", "Google's network card", "an NPU", "a driver without a GPU"],
)
def test_no_warning_without_an_accelerator(files: dict[str, str], tmp_path: Path) -> None:
    assert unused_accelerator("cpu", {}, machine(tmp_path, files)) is None


def test_a_container_that_was_started_without_the_gpu(tmp_path: Path) -> None:
    root = machine(tmp_path, {"proc/driver/nvidia/gpus/0000:01:00.0/information": "Model: H100"})
    assert "--gpus all" in (unused_accelerator("cpu", {}, root) or "")
