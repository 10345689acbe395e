"""Finds what happens when in a long video: classes over time, segments, a picture.

    python -m vswin_jax.timeline match.mp4 --checkpoint runs/my_run --out match
    python -m vswin_jax.timeline match.mp4 --checkpoint runs/my_run --annotate labelled.mp4
    python -m vswin_jax.timeline --live /dev/video0 --checkpoint runs/my_run

VIDEO is one video file of any length, or a folder of frames with --frame-rate. CHECKPOINT is a
run's directory, the directory of one checkpoint, the name of a released one, a URL, a PyTorch,
safetensors or npz file, or a Hugging Face directory.

The model gets a clip as in training, a window, every --stride seconds, with the crops of the
evaluation. A segment is a part of the video in which a class is the most probable one (of a
multi-label model: any class) and has a probability of --threshold or more, averaged over --smooth
seconds. Segments are printed: start, end, class and mean probability.
--out is a directory for timeline.json (both), timeline.csv (windows), segments.csv, timeline.png
(frames above a heat map of the top classes) and scores.npy (all probabilities, float32 [windows,
classes], whose names are in settings.json). The same command goes on there where it stopped;
another --threshold, --smooth or --shortest takes the stored scores. --annotate is an mp4 of the
whole video with the classes of the segments on the frames.

--live reads what FFmpeg can open: a camera device, an address such as rtsp://..., or - for stdin.
A line is printed every --stride seconds, with the time since the start and the most probable
classes of the last window; if the model is too slow for the stride, windows are left out.

The exit status is 0 if the whole video was read, 1 if it is damaged after the last window, and 2
for a wrong input.

From Python the module itself can be called: `vswin_jax.timeline(...)` is
`vswin_jax.inference.timeline(...)`.
"""

import signal

if __name__ == "__main__":
    # Ctrl-C ends the program at once and without a traceback; windows are kept as they come.
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
from vswin_jax.runtime.script_parser import command_parser, positive_int, print_error
from vswin_jax.runtime.standard_streams import print_message, run_script

if TYPE_CHECKING:
    from vswin_jax.inference import Timeline

# Arguments that a live source does not have.
_NOT_LIVE = ("out", "annotate", "smooth", "threshold", "shortest", "overwrite")


def run(arguments: Sequence[str]) -> int:
    """Print the segments of a video, or the classes of a live source; return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        if (options.video is None) == (options.live is None):
            raise InputError("Expected either a VIDEO or --live SOURCE: give one of them.")
        return _run_live(options) if options.live is not None else _run(options)
    except InputError as error:
        return print_error(error)


def _run(options: argparse.Namespace) -> int:
    log_downloads()
    from vswin_jax import inference
    from vswin_jax.config.plugins import import_plugins

    import_plugins(options.plugins)
    given = {name: getattr(options, name) for name in ("smooth", "threshold", "shortest")}
    found = inference.timeline(
        options.video,
        options.checkpoint,
        stride=options.stride,
        window=options.window,
        crops=options.crops,
        frame_rate=options.frame_rate,
        out=options.out,
        annotate=options.annotate,
        topk=options.topk,
        which=options.which,
        labels=options.labels,
        batch_size=options.batch_size,
        overwrite=bool(options.overwrite),
        report=print_message,
        **{name: value for name, value in given.items() if value is not None},
    )
    _print(found)
    if found.failure:
        print_error(InputError(found.failure))
    return 1 if found.failure else 0


def _print(timeline: "Timeline") -> None:
    from vswin_jax.runtime.clock_time import clock_time

    for part in timeline.segments:
        span = f"{clock_time(part.start):>9}  {clock_time(part.end):>9}"
        print(f"{span}  {part.score:6.1%}  {printable(part.label)}")
    if not timeline.segments:
        print_message("no class reaches the threshold anywhere: lower it with --threshold")


def _run_live(options: argparse.Namespace) -> int:
    given = [name for name in _NOT_LIVE if getattr(options, name) is not None]
    if given:
        raise InputError(f"--{given[0]} is about a file, and not for --live: leave it away.")
    log_downloads()
    from vswin_jax import inference
    from vswin_jax.config.plugins import import_plugins
    from vswin_jax.runtime.clock_time import clock_time

    import_plugins(options.plugins)
    scored = inference.live_timeline(
        options.live,
        options.checkpoint,
        stride=options.stride,
        window=options.window,
        crops=options.crops,
        topk=options.topk,
        which=options.which,
        labels=options.labels,
        report=print_message,
    )
    for moment in scored:
        classes = zip(moment.labels, moment.probabilities, strict=True)
        text = ", ".join(f"{share:.1%} {printable(label)}" for label, share in classes)
        left_out = f"  ({moment.dropped} windows left out)" if moment.dropped else ""
        print(f"{clock_time(moment.time):>9}  {text}{left_out}", flush=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(__doc__, "timeline")
    add = parser.add_argument
    path = {"type": os.path.expanduser}
    add("video", **path, nargs="?", metavar="VIDEO", help="a video file, or a folder of frames")
    add_checkpoint_arguments(parser)
    add("--live", metavar="SOURCE", help="a camera, an address, or - for stdin, instead of VIDEO")
    add("--out", **path, metavar="DIR", help="a directory for scores, segments and a picture")
    add("--annotate", **path, metavar="MP4", help="write the video with its classes on it")
    _add_windows(parser)
    add("--threshold", type=float, metavar="P", help="of the segments (0.3)")
    add("--smooth", type=float, metavar="SECONDS", help="average the probabilities over them (2)")
    add("--shortest", type=float, metavar="SECONDS", help="of the segments (0)")
    add("--topk", type=positive_int, default=5, metavar="K", help="classes a window (5)")
    add("--overwrite", action="store_true", default=None, help="delete an earlier timeline in DIR")
    return parser


def _add_windows(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    stride_help = "seconds from a window to the next one (1)"
    add("--stride", type=float, default=1.0, metavar="SECONDS", help=stride_help)
    window_help = "length of a window, for uniform sampling alone"
    add("--window", type=float, metavar="SECONDS", help=window_help)
    add("--crops", type=int, choices=(1, 3, 5), help="crops of a window (the run's own)")
    add("--frame-rate", type=float, metavar="FPS", help="frames a second of a folder of frames")
    batch_help = "windows of a batch (up to 8 a device)"
    add("--batch-size", type=positive_int, metavar="N", help=batch_help)


make_callable(__name__)

if __name__ == "__main__":
    sys.exit(run_script(run))
