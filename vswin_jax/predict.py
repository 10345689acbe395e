"""Predicts the classes of videos: labels with probabilities, and a picture of them.

    python -m vswin_jax.predict clip.mp4 --checkpoint runs/my_run --plot clip.png

VIDEO is a video file, a folder of frames, or a folder with either at any depth. All settings come
from the checkpoint. The predictions of each video are printed as soon as they are made; a video
that cannot be read gets a sentence on stderr instead. The exit status is 0 if all videos have
predictions, 1 if some have none, and 2 for a wrong input, or if no video can be read. Write --
before a name that begins with a dash.

From Python the module itself can be called: `vswin_jax.predict(...)` is
`vswin_jax.inference.predict(...)`.
"""

import signal

if __name__ == "__main__":
    # Ctrl-C ends the program at once and without a traceback. Python's own handler would wait until
    # a compilation of many seconds has ended.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse
import os
import re
import sys
import types
from collections.abc import Sequence

import numpy as np

from vswin_jax.errors import InputError
from vswin_jax.inference.predictions import Prediction, UnreadableVideo, predict, predict_each
from vswin_jax.reporting import plots
from vswin_jax.runtime.output_path import output_file
from vswin_jax.runtime.printable import printable
from vswin_jax.runtime.script_parser import print_error, script_parser
from vswin_jax.runtime.standard_streams import print_message, run_script

__all__ = ["Prediction", "UnreadableVideo", "predict", "predict_each", "run"]

# A picture of more rows would be larger than matplotlib can draw.
_MAX_ROWS = 50
_FRAMES_SHOWN = 6


def run(arguments: Sequence[str]) -> int:
    """Print the predictions that the arguments ask for and return the exit status."""
    options = _parser().parse_args(arguments)
    good, bad = 0, 0
    rows: list[plots.PredictionRow] = []
    try:
        picture = options.plot and output_file(options.plot, "--plot", parent_must_exist=True)
        for result in predict_each(
            options.videos, options.checkpoint, options.topk, views=options.views
        ):
            if isinstance(result, UnreadableVideo):
                bad += 1
                print_error(InputError(result.reason))
                continue
            good += 1
            _print(result)
            if picture and good <= _MAX_ROWS:
                rows.append(_row(result))
        if rows:
            plots.save_predictions(picture, rows, frames_shown=_FRAMES_SHOWN)
    except InputError as error:
        return print_error(error)
    if good > len(rows) > 0:
        print_message(f"the picture has the first {len(rows)} of {good} videos")
    if bad and good + bad > 1:
        print_message(f"error: {bad} of {good + bad} videos have no prediction")
    return (1 if good else 2) if bad else 0


def _print(prediction: Prediction) -> None:
    shares = zip(prediction.labels, prediction.probabilities, strict=True)
    lines = [f"  {share:6.1%}  {printable(label)}" for label, share in shares]
    print("\n".join([printable(prediction.video), *lines]), flush=True)


def _row(prediction: Prediction) -> plots.PredictionRow:
    frames = prediction.frames
    shown = np.linspace(0, len(frames) - 1, min(_FRAMES_SHOWN, len(frames))).round().astype(int)
    return plots.PredictionRow(
        frames=frames[shown],
        labels=prediction.labels,
        probabilities=prediction.probabilities,
        name=os.path.basename(os.path.normpath(prediction.video)),
    )


def _parser() -> argparse.ArgumentParser:
    parser = script_parser(
        __doc__.partition("\n\nFrom Python")[0], prog="python -m vswin_jax.predict"
    )
    add = parser.add_argument
    path = {"type": os.path.expanduser}
    add("videos", **path, nargs="+", metavar="VIDEO", help="a video file, or a folder")
    checkpoint_help = "a run's directory, or one checkpoint's"
    add("--checkpoint", **path, required=True, metavar="DIR", help=checkpoint_help)
    add("--topk", type=int, default=5, metavar="K", help="classes a video (5)")
    add("--views", type=_views, metavar="4x3", help="clips x crops; default: the run's own")
    add("--plot", metavar="PNG", help="draw the frames and the probabilities")
    return parser


def _views(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"expected clips x crops, such as 4x3, but {text!r} came")
    return int(match[1]), int(match[2])


class _CallableModule(types.ModuleType):
    """The module as a function, because `vswin_jax.predict` is the name of both."""

    __call__ = staticmethod(predict)


sys.modules[__name__].__class__ = _CallableModule

if __name__ == "__main__":
    sys.exit(run_script(run))
