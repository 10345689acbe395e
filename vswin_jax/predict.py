"""Predicts the classes of videos: labels with probabilities, and a picture of them.

    python -m vswin_jax.predict clip.mp4 --checkpoint runs/my_run --plot clip.png

VIDEO is a video file, a folder of frames, or a folder with either at any depth. CHECKPOINT is a
run's directory, which stands for its latest checkpoint (--which best: for its best one), the
directory of one checkpoint, the name of a released one, a URL, a PyTorch, safetensors or npz file,
or a Hugging Face directory. All settings come from the checkpoint; a file of weights is used as
published. The predictions of each video are printed as soon as they are made, after a line on
stderr about the checkpoint; a video that cannot be read gets a sentence on stderr instead. The exit
status is 0 if all videos have predictions, 1 if some have none, and 2 for a wrong input, or if no
video can be read. Write -- before a name that begins with a dash.

From Python the module itself can be called: `vswin_jax.predict(...)` is
`vswin_jax.inference.predict(...)`.
"""

import signal

if __name__ == "__main__":
    # Ctrl-C ends the program at once and without a traceback. Python's own handler would wait until
    # a compilation of many seconds has ended.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse
import importlib
import inspect
import logging
import os
import re
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vswin_jax.errors import InputError
from vswin_jax.runtime.output_path import output_file
from vswin_jax.runtime.printable import printable
from vswin_jax.runtime.script_parser import print_error, script_parser
from vswin_jax.runtime.standard_streams import print_message, run_script

if TYPE_CHECKING:
    from vswin_jax.inference import Prediction
    from vswin_jax.reporting import plots

# Imported at their first use: JAX takes seconds, and --help and a wrong argument need none of it.
_LAZY = ("Prediction", "UnreadableVideo", "predict", "predict_each")

# A picture of more rows would be larger than matplotlib can draw.
_MAX_ROWS = 50
_FRAMES_SHOWN = 6


def run(arguments: Sequence[str]) -> int:
    """Print the predictions that the arguments ask for and return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        if options.topk < 1:
            raise InputError(f"Expected --topk to be 1 or more but {options.topk} came.")
        if options.plot:
            options.plot = output_file(options.plot, "--plot", parent_must_exist=True)
        return _run(options)
    except InputError as error:
        return print_error(error)


def _run(options: argparse.Namespace) -> int:
    _log_downloads()
    from vswin_jax.config.plugins import import_plugins
    from vswin_jax.inference import predictions, predictor

    import_plugins(options.plugins)
    pending = predictions.pending_predictor(
        options.checkpoint, views=options.views, which=options.which, labels=options.labels
    )
    found = predictor.FoundVideos(options.videos)
    drawn: list[Prediction] = []
    good, bad = 0, 0
    for result in predictions.predict_pending(pending, found, options.topk):
        if isinstance(result, predictor.UnreadableVideo):
            bad += 1
            print_error(InputError(result.reason))
            continue
        if not good:
            print_message(printable(pending.note))
        good += 1
        _print(result)
        if options.plot and good <= _MAX_ROWS:
            drawn.append(result)
    _draw(options.plot, drawn, good)
    if bad and good + bad > 1:
        print_message(f"error: {bad} of {good + bad} videos have no prediction")
    return (1 if good else 2) if bad else 0


def _log_downloads() -> None:
    """Print the lines about a download to stderr."""
    log = logging.getLogger("vswin_jax.weights.download")
    if not log.handlers:
        log.addHandler(logging.StreamHandler(sys.stderr))
        log.setLevel(logging.INFO)


def _print(prediction: "Prediction") -> None:
    shares = zip(prediction.labels, prediction.probabilities, strict=True)
    lines = [f"  {share:6.1%}  {printable(label)}" for label, share in shares]
    print("\n".join([printable(prediction.video), *lines]), flush=True)


def _draw(picture: str, drawn: "Sequence[Prediction]", good: int) -> None:
    if not drawn:
        return
    from vswin_jax.reporting import plots

    plots.save_predictions(picture, [*map(_row, drawn)], frames_shown=_FRAMES_SHOWN)
    if good > len(drawn):
        print_message(f"the picture has the first {len(drawn)} of {good} videos")


def _row(prediction: "Prediction") -> "plots.PredictionRow":
    import numpy as np

    from vswin_jax.reporting import plots

    frames = prediction.frames
    shown = np.linspace(0, len(frames) - 1, min(_FRAMES_SHOWN, len(frames))).round().astype(int)
    return plots.PredictionRow(
        frames=frames[shown],
        labels=prediction.labels,
        probabilities=prediction.probabilities,
        # Files in folders of classes often have the same names.
        name=os.path.join(*Path(os.path.normpath(prediction.video)).parts[-2:]),
    )


def _parser() -> argparse.ArgumentParser:
    parser = script_parser(
        __doc__.partition("\n\nFrom Python")[0], prog="python -m vswin_jax.predict"
    )
    add = parser.add_argument
    path = {"type": os.path.expanduser}
    add("videos", **path, nargs="+", metavar="VIDEO", help="a video file, or a folder")
    checkpoint_help = "a run's directory, a released name, a URL or a file of weights"
    add("--checkpoint", **path, required=True, metavar="CHECKPOINT", help=checkpoint_help)
    add(
        "--which", choices=("latest", "best"), default="latest", help="checkpoint of a run (latest)"
    )
    add("--topk", type=int, default=5, metavar="K", help="classes a video (5)")
    add("--views", type=_views, metavar="4x3", help="clips x crops; default: the run's own")
    add("--labels", **path, metavar="FILE", help="class names, one a line, for weights without")
    plugins_help = "your modules with the run's own layers, by commas; they are imported"
    add("--plugins", default="", metavar="MODULES", help=plugins_help)
    add("--plot", metavar="PNG", help="draw the frames and the probabilities")
    return parser


def _views(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"expected clips x crops, such as 4x3, but {text!r} came")
    return int(match[1]), int(match[2])


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module("vswin_jax.inference"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class _CallableModule(types.ModuleType):
    """The module as a function, because `vswin_jax.predict` is the name of both."""

    def __call__(self, *arguments: Any, **options: Any) -> "list[Prediction]":
        return self.predict(*arguments, **options)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self.predict)


sys.modules[__name__].__class__ = _CallableModule

if __name__ == "__main__":
    sys.exit(run_script(run))
