"""NVIDIA GPUs on one host, for ahead-of-time compilation without a GPU.

With `config.train.autotune` XLA chooses kernels by timing them on the GPU. Without a GPU it takes
the first kernel that compiles for each product and fusion.
"""

import importlib.util
from collections.abc import Sequence

import jax

from vswin_jax.analysis.gpu_targets import GPU_TARGETS, target_config
from vswin_jax.analysis.topology_names import GpuMachine, parse_topology
from vswin_jax.errors import InputError


def is_gpu_topology(topology: str) -> bool:
    """Return True for GPU topologies such as `h200:8`.

    Raises:
      InputError: The name is that of no topology.
    """
    return isinstance(parse_topology(topology), GpuMachine)


def gpu_topology_devices(machine: GpuMachine) -> Sequence[jax.Device]:
    """Return the devices of a machine with GPUs, for lowering and compiling only.

    Raises:
      InputError: The compiler is not installed, or does not support the GPU.
    """
    cuda = _cuda_version()
    if cuda is None:
        raise InputError(
            f"The topology '{machine}' needs XLA's compiler for GPUs, which is not installed: run "
            f'pip install "jax[cuda13]" (it needs no GPU), or leave --topology out.'
        )
    return _devices(machine, cuda)


def _devices(machine: GpuMachine, cuda: int) -> Sequence[jax.Device]:
    jax.config.update("jax_platforms", "cpu")
    from jax.experimental import topologies

    settings = {
        "target_config": target_config(GPU_TARGETS[machine.gpu], cuda),
        "topology": f"1x1x{machine.count}",
    }
    try:
        return topologies.get_topology_desc(platform="cuda", **settings).devices
    except (RuntimeError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"XLA's compiler for GPUs does not support the topology '{machine}': {reason}. Install "
            f'the latest with pip install -U "jax[cuda{cuda}]".'
        ) from None


def _cuda_version() -> int | None:
    """Return the major CUDA version of the installed compiler, or None if there is none."""
    for version in (13, 12):
        if importlib.util.find_spec(f"jax_cuda{version}_plugin"):
            return version
    return None
