"""The platform that a program is compiled for, which may differ from this machine's."""

import jax
from jax.sharding import AbstractMesh, Mesh


def target_platform(mesh: Mesh | AbstractMesh | None = None) -> str:
    """Return the platform that a program over `mesh` is compiled for.

    Without a `mesh` it is that of the mesh in effect (`jax.set_mesh`), whose devices may belong to
    another machine (compilation ahead of time); without any mesh, JAX's default backend.
    """
    abstract = jax.sharding.get_abstract_mesh() if mesh is None else mesh.abstract_mesh
    device = abstract.abstract_device
    return jax.default_backend() if device is None else device.platform


def targets_gpu(mesh: Mesh | AbstractMesh | None = None) -> bool:
    """Return True if a program over `mesh`, or the one being traced, is compiled for GPUs."""
    return target_platform(mesh) in ("gpu", "cuda")


def targets_one_cpu() -> bool:
    """Return True if the program being traced is compiled for a single CPU device.

    The chunked implementations, which loop over windows, are made for that case: over several
    devices the loop would gather all windows on each of them.
    """
    return target_platform() == "cpu" and jax.device_count() == 1
