"""Explains predictions: the places of a clip that raise a class, or that a token attends to.

    python -m vswin_jax.explain clip.mp4 --checkpoint runs/my_run --out strip.png --video map.mp4
    python -m vswin_jax.explain clip.mp4 --checkpoint runs/my_run --out strip.png \
        --method attention --stage 0 --block 1 --query 0.5,0.3,0.7

VIDEO is a video file, a folder of frames, or a folder with either at any depth. CHECKPOINT is a
run's directory, the directory of one checkpoint, the name of a released one, a URL, a PyTorch,
safetensors or npz file, or a Hugging Face directory.

gradcam is Grad-CAM (Selvaraju et al., 2017): the output of the last block of a stage, its channels
weighted by the mean gradient of the class's logit over time and space, and negative sums set to 0.
attention shows the attention weights of one token, --query, in its 3D window (a white line): those
of a head, or the mean of all. The blocks 1, 3, ... of a stage have shifted windows. The clip is the
middle test view, or the one around --time seconds.

--out is a picture: frames above, the map over them below. --video is an mp4 of every frame beside
its map, at 8 frames a second. --map is the raw map of tokens, .npy, float32 [time, height, width].
For several videos they are directories; a second start leaves out the videos whose files are there.
The class and its probability for this clip are printed for each video. The exit status is 0 if all
videos are explained, 1 if some could not be read, and 2 for a wrong input, or if none could.

From Python the module itself can be called: `vswin_jax.explain(...)` is
`vswin_jax.inference.explain(...)`.
"""

import signal

if __name__ == "__main__":
    # Ctrl-C ends the program at once and without a traceback; files are whole or not there.
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
from vswin_jax.runtime.standard_streams import print_message, run_script

if TYPE_CHECKING:
    from vswin_jax.inference import Explanation

_METHODS = ("gradcam", "attention")
_MIDDLE = (0.5, 0.5, 0.5)


def run(arguments: Sequence[str]) -> int:
    """Write the explanations that the arguments ask for and return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        if not (options.out or options.video or options.map):
            raise InputError("Expected --out, --video or --map but none came: give one of them.")
        return _run(options)
    except InputError as error:
        return print_error(error)


def _run(options: argparse.Namespace) -> int:
    log_downloads()
    from vswin_jax.config.plugins import import_plugins
    from vswin_jax.inference import explanations, opened_checkpoint, predictor

    import_plugins(options.plugins)
    settings = explanations.ExplanationSettings(
        method=options.method,
        stage=options.stage,
        label=options.label,
        block=options.block,
        head=options.head,
        query=options.query,
        time=options.time,
    )
    opened = opened_checkpoint.open_checkpoint(options.checkpoint, options.which, options.labels)
    print_message(printable(opened.note))
    paths = {"out": options.out, "video": options.video, "map": options.map}
    found = predictor.FoundVideos(options.videos)
    results = explanations.explain_each(found, opened, settings, paths, write_line=print_message)
    bad = 0
    for result in results:
        if isinstance(result, predictor.UnreadableVideo):
            bad += 1
            print_error(InputError(result.reason))
        else:
            _print(result)
    videos = len(found.examples) + len(found.missing)
    return (1 if videos > bad else 2) if bad else 0


def _print(explanation: "Explanation") -> None:
    label = printable(explanation.label)
    print(f"{printable(explanation.video)}  {explanation.probability:.1%}  {label}", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(__doc__, "explain")
    add = parser.add_argument
    path = {"type": os.path.expanduser}
    add("videos", **path, nargs="+", metavar="VIDEO", help="a video file, or a folder")
    add_checkpoint_arguments(parser)
    add("--out", **path, metavar="PNG", help="the strip of frames and overlays")
    add("--video", **path, metavar="MP4", help="the overlay as a video")
    add("--map", **path, metavar="NPY", help="the raw map")
    _add_method(parser)
    return parser


def _add_method(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--method", choices=_METHODS, default="gradcam", help="the kind of map (gradcam)")
    add("--stage", type=int, metavar="I", help="counted from 0 (the last)")
    add("--label", metavar="CLASS", help="a class by name or number (the predicted one)")
    add("--block", type=int, metavar="I", help="for attention: of the stage (the last)")
    add("--head", type=int, metavar="I", help="for attention: the head (mean of all)")
    query_help = "for attention: the query's place, shares of the clip (0.5,0.5,0.5)"
    add("--query", type=_query, default=_MIDDLE, metavar="TIME,HEIGHT,WIDTH", help=query_help)
    add("--time", type=float, metavar="SECONDS", help="the clip's middle (the middle test view)")


def _query(text: str) -> tuple[float, ...]:
    try:
        return tuple(map(float, text.split(",")))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected three numbers, such as 0.5,0.5,0.5, but {text!r} came"
        ) from None


make_callable(__name__)

if __name__ == "__main__":
    sys.exit(run_script(run))
