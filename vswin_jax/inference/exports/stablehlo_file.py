"""An export as one file of `jax.export`: StableHLO with the parameters as its constants."""

from pathlib import Path

import jax
import jax.export
import numpy as np

from vswin_jax.inference.exports.export_format import ExportCall, ExportFormat
from vswin_jax.inference.exports.portable_program import LAYERS, export_program
from vswin_jax.inference.trained_model import TrainedModel

_USAGE = (
    "import jax; from jax import export; "
    "probabilities = jax.jit(export.deserialize(bytearray(open(FILE, 'rb').read())).call)(clips)"
)


def _write(loaded: TrainedModel, path: Path) -> None:
    path.write_bytes(export_program(loaded, has_constants=True).serialize())


def _open(path: Path) -> ExportCall:
    call = jax.jit(jax.export.deserialize(bytearray(path.read_bytes())).call)
    return lambda clips: np.asarray(call(clips))


STABLEHLO = ExportFormat(
    name="stablehlo", write=_write, open=_open, usage=_USAGE, layers=LAYERS, is_directory=False
)
