"""Exports a trained model for programs without vswin_jax: a file or a directory, and a JSON.

    python -m vswin_jax.export mine.stablehlo --checkpoint runs/mine --to stablehlo

The export takes clips, uint8 RGB [batch, time, height, width, 3] with any batch, and returns the
probabilities, float32 [batch, classes]. OUT.json has the class names, the preprocessing of a video,
and a line of Python that loads the export. The formats of --to:

  stablehlo   one file for jax.export.deserialize, for CPUs, NVIDIA GPUs and TPUs
  savedmodel  a directory for TensorFlow and TF Serving, with the signature serving_default
  onnx        one file for ONNX Runtime; it needs pip install -e ".[onnx]" torch torchvision

CHECKPOINT is a run's directory, which stands for its latest checkpoint (--which best: for its best
one), the directory of one checkpoint, the name of a released one, a URL, a PyTorch, safetensors or
npz file, or a Hugging Face directory.

The export is compared with the model before it gets its name: on the clips in the middle of the
videos of --clips (files, folders of frames, folders with either), or on moving shapes. If a
probability differs by more than 0.0001 it is deleted. Printed are the largest difference, the size,
and the clips per second of the export and of the model on this machine. The exit status is 0 for an
export that is complete, 2 for a wrong input or an export that differs, and 130 after Ctrl-C; then
nothing is left.

From Python the module itself can be called: `vswin_jax.export(...)` is
`vswin_jax.inference.export(...)`.
"""

import signal

if __name__ == "__main__":
    # Ctrl-C ends the imports at once and without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vswin_jax.errors import InputError
from vswin_jax.runtime.callable_module import make_callable
from vswin_jax.runtime.checkpoint_arguments import add_checkpoint_arguments, log_downloads
from vswin_jax.runtime.printable import printable
from vswin_jax.runtime.script_parser import command_parser, print_error
from vswin_jax.runtime.standard_streams import print_message, print_result, run_script

if TYPE_CHECKING:
    from vswin_jax.inference.exports import ExportedModel


_FORMATS = ("stablehlo", "savedmodel", "onnx")
_INTERRUPTED = 128 + signal.SIGINT


def run(arguments: Sequence[str]) -> int:
    """Export as the arguments ask for, print the comparison and return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        _print(_export(options))
    except InputError as error:
        return print_error(error)
    except KeyboardInterrupt:
        print_message("Ctrl-C stopped the export: nothing was written.")
        return _INTERRUPTED
    return 0


def _export(options: argparse.Namespace) -> "ExportedModel":
    from vswin_jax.config.plugins import import_plugins
    from vswin_jax.inference.exports import export

    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        # From here on there are files to delete.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    log_downloads()
    import_plugins(options.plugins)
    return export(
        options.checkpoint,
        options.out,
        to=options.to,
        clips=options.clips,
        dtype=options.dtype,
        which=options.which,
        labels=options.labels,
        overwrite=options.overwrite,
        write_line=lambda line: print_message(printable(line)),
    )


def _print(exported: "ExportedModel") -> None:
    print_result("\n".join(map(printable, _summary(exported))))


def _summary(exported: "ExportedModel") -> tuple[str, ...]:
    import jax

    compared = exported.comparison
    size, parameters = exported.size / 1e6, exported.parameter_size / 1e6
    device = f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores"
    return (
        f"exported to {exported.path}, described in {exported.description}",
        f"size: {size:.1f} MB; the parameters have {parameters:.1f} MB in float32",
        f"largest difference of a probability: {compared.difference:.1e}, on {compared.num_clips} "
        f"clips ({compared.clips})",
        f"speed: {compared.export_rate:.3g} clips/s, the model {compared.model_rate:.3g} clips/s "
        f"({device}, one clip at a time)",
    )


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(__doc__, "export")
    add = parser.add_argument
    path = {"type": os.path.expanduser}
    add("out", **path, metavar="OUT", help="the file, or the directory of a SavedModel, to write")
    add("--to", choices=_FORMATS, required=True, help="the format, see below")
    add_checkpoint_arguments(parser)
    dtype_help = "compute dtype: the run's, and float32 for onnx"
    add("--dtype", choices=("float32", "bfloat16"), help=dtype_help)
    clips_help = "videos to compare on; default: moving shapes"
    add("--clips", **path, nargs="+", default=(), metavar="VIDEO", help=clips_help)
    add("--overwrite", action="store_true", help="replace an earlier export")
    return parser


make_callable(__name__)

if __name__ == "__main__":
    sys.exit(run_script(run))
