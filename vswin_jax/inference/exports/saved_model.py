"""An export as a SavedModel of TensorFlow: the program in one operation, parameters in variables.

`jax2tf` is not used: it writes StableHLO of the version of JAX, and a released TensorFlow, which is
older, cannot read that (TensorFlow 2.21 has version 1.13, JAX 0.10.2 writes 1.15). The operation is
the same that `jax2tf` makes, and its StableHLO is of a version that any TensorFlow can read.
"""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from vswin_jax.inference.exports.export_format import ExportCall, ExportFormat
from vswin_jax.inference.exports.portable_program import LAYERS, export_program
from vswin_jax.inference.trained_model import TrainedModel
from vswin_jax.runtime.quiet_import import import_quietly

_STABLEHLO_VERSION = "1.0.0"
_SIGNATURE = "serving_default"
_USAGE = (
    "import tensorflow as tf; serve = tf.saved_model.load(FILE).signatures['serving_default']; "
    "probabilities = serve(clips=tf.constant(clips))['probabilities'].numpy()"
)


def _write(loaded: TrainedModel, path: Path) -> None:
    tf = _tensorflow()
    exported = export_program(loaded, has_constants=False)
    module = tf.Module()
    named = jax.tree_util.tree_leaves_with_path(jax.device_get(loaded.params))
    with tf.device("CPU"):
        module.parameters = [
            tf.Variable(value, trainable=False, name=jax.tree_util.keystr(name, simple=True))
            for name, value in named
        ]
    module.serve = tf.function(
        _call_operation(exported, module.parameters),
        autograph=False,
        input_signature=[tf.TensorSpec(_static_shape(exported.in_avals[-1]), tf.uint8, "clips")],
    )
    tf.saved_model.save(module, str(path), signatures={_SIGNATURE: module.serve})


def _call_operation(exported: jax.export.Exported, parameters: list[Any]) -> Any:
    """Return a function of TensorFlow that applies the exported program to clips."""
    import tensorflow as tf
    from jax.extend.mlir.dialects import stablehlo
    from tensorflow.compiler.tf2xla.python import xla

    code = stablehlo.serialize_portable_artifact_str(exported.mlir_module(), _STABLEHLO_VERSION)
    # Parameters that the program does not use are no arguments of its code.
    kept = [parameters[index] for index in exported.module_kept_var_idx[:-1]]

    def serve(clips: Any) -> dict[str, Any]:
        (probabilities,) = xla.call_module(
            [*kept, clips],
            version=exported.calling_convention_version,
            module=code,
            Sout=[_static_shape(exported.out_avals[0])],
            Tout=[tf.float32],
            platforms=[platform.upper() for platform in exported.platforms],
        )
        return {"probabilities": probabilities}

    return serve


def _static_shape(aval: Any) -> tuple[int | None, ...]:
    return tuple(size if isinstance(size, int) else None for size in aval.shape)


def _open(path: Path) -> ExportCall:
    tf = _tensorflow()
    serve = tf.saved_model.load(str(path)).signatures[_SIGNATURE]

    def call(clips: np.ndarray) -> np.ndarray:
        with tf.device("CPU"):
            return serve(clips=tf.constant(clips))["probabilities"].numpy()

    return call


def _tensorflow() -> Any:
    """Import TensorFlow, on the CPU alone: it would take all memory of a GPU that JAX uses."""
    import_quietly("tensorflow")
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")
    tf.get_logger().setLevel("ERROR")
    return tf


SAVED_MODEL = ExportFormat(
    name="savedmodel", write=_write, open=_open, usage=_USAGE, layers=LAYERS, is_directory=True
)
