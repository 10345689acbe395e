"""Command line of predictions: labels with probabilities, and a picture of them.

    python -m vswin_jax.predict clip.mp4 --checkpoint runs/my_run --plot clip.png

All settings come from the checkpoint. The module itself can be called: `vswin_jax.predict(...)` is
`vswin_jax.inference.predict(...)`.
"""

import argparse
import os
import re
import sys
import types
from collections.abc import Sequence

from vswin_jax.errors import InputError
from vswin_jax.inference.predictions import Prediction, predict
from vswin_jax.reporting import plots

__all__ = ["Prediction", "predict", "run"]


def run(arguments: Sequence[str]) -> int:
    """Print the predictions that the arguments ask for and return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        found = predict(options.videos, options.checkpoint, options.topk, views=options.views)
        if options.plot:
            strips = (
                plots.PredictionRow(p.frames, p.labels, p.probabilities, os.path.basename(p.video))
                for p in found
            )
            plots.save_predictions(options.plot, list(strips))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for prediction in found:
        print(prediction.video)
        for label, share in zip(prediction.labels, prediction.probabilities, strict=True):
            print(f"  {share:6.1%}  {label}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m vswin_jax.predict", description="Predicts the classes of videos."
    )
    parser.add_argument("videos", nargs="+", metavar="VIDEO", help="a video file")
    parser.add_argument(
        "--checkpoint", required=True, metavar="DIR", help="a run's directory, or one checkpoint's"
    )
    parser.add_argument("--topk", type=int, default=5, metavar="K", help="classes a video (5)")
    parser.add_argument(
        "--views", type=_views, metavar="4x3", help="clips x crops; default: the run's own"
    )
    parser.add_argument("--plot", metavar="PNG", help="draw the frames and the probabilities")
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
    sys.exit(run(sys.argv[1:]))
