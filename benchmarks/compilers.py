"""Which versions of which compiler a program was compiled by."""

import re
from importlib.metadata import distributions, version

from vswin_jax.gpu_boxes import BOXES

_OF_GPUS = re.compile(r"jax-cuda\d+-p|nvidia-cudnn")


def is_gpu(topology: str) -> bool:
    """Whether it is a box of GPUs, and not a TPU slice."""
    return topology.partition(":")[0] in BOXES


def versions(topology: str) -> dict[str, str]:
    """Those of the packages that compile for a topology, or for "cpu"."""
    names = {distribution.metadata["Name"] for distribution in distributions()}
    compiler = ["libtpu"] if topology != "cpu" else []
    if is_gpu(topology):
        compiler = sorted(filter(_OF_GPUS.match, names))
    return {name: version(name) for name in ("jax", "jaxlib", *compiler)}
