"""Platforms that programs are compiled for, which need not be those of this machine."""

import jax
from jax.sharding import AbstractMesh, Mesh


def target_platform(mesh: Mesh | AbstractMesh | None = None) -> str:
    """The platform that a program over `mesh`, or the one being traced, is for.

    That of the mesh that is set (`jax.set_mesh`), whose devices may be elsewhere; without a mesh,
    that of this machine's devices.
    """
    abstract = jax.sharding.get_abstract_mesh() if mesh is None else mesh.abstract_mesh
    device = abstract.abstract_device
    return jax.default_backend() if device is None else device.platform


def targets_gpu(mesh: Mesh | AbstractMesh | None = None) -> bool:
    """Whether a program over `mesh`, or the one being traced, is for GPUs."""
    return target_platform(mesh) in ("gpu", "cuda")


def targets_one_cpu() -> bool:
    """Whether the program being traced is for a CPU, and for it alone.

    What goes over windows in a loop is made for that: over several devices it would gather all
    windows on each.
    """
    return target_platform() == "cpu" and jax.device_count() == 1
