"""Which versions of which compiler a program was compiled by."""

import re
from importlib.metadata import distributions, version

from vswin_jax.analysis.gpu_boxes import is_box

_OF_GPUS = re.compile(r"jax-cuda\d+-p|nvidia-cudnn")


def versions(topology: str) -> dict[str, str]:
    """Those of the packages that compile for a topology, or for "cpu"."""
    compiler = ["libtpu"] if topology != "cpu" else []
    if is_box(topology):
        names = {distribution.metadata["Name"] for distribution in distributions()}
        compiler = sorted(filter(_OF_GPUS.match, names))
    return {name: version(name) for name in ("jax", "jaxlib", *compiler)}
