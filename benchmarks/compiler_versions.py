"""Versions of the compilers that the benchmarks use, for their reports."""

import re
from importlib.metadata import distributions, version

from vswin_jax.analysis.gpu_topologies import is_gpu_topology

_GPU_PACKAGES = re.compile(r"jax-cuda\d+-p|nvidia-cudnn")


def compiler_versions(topology: str) -> dict[str, str]:
    """Return the versions of jax, jaxlib and the compiler packages for a topology or "cpu"."""
    packages = ["libtpu"] if topology != "cpu" else []
    if topology != "cpu" and is_gpu_topology(topology):
        names = {distribution.metadata["Name"] for distribution in distributions()}
        packages = sorted(filter(_GPU_PACKAGES.match, names))
    return {name: version(name) for name in ("jax", "jaxlib", *packages)}
