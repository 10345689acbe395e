"""Predicts the classes of videos: labels with probabilities, and a picture of them.

    python -m vswin_jax.predict clip.mp4 --checkpoint runs/my_run --plot clip.png
    python -m vswin_jax.predict videos/ --checkpoint runs/my_run --out answers.jsonl

VIDEO is a video file, a folder of frames, or a folder with either at any depth. CHECKPOINT is a
run's directory, which stands for its latest checkpoint (--which best: for its best one), the
directory of one checkpoint, the name of a released one, a URL, a PyTorch, safetensors or npz file,
or a Hugging Face directory. All settings come from the checkpoint; a file of weights is used as
published. The predictions of each video are printed as soon as they are made, after a line on
stderr about the checkpoint; a video that cannot be read gets a sentence on stderr instead. The exit
status is 0 if all videos have predictions, 1 if some have none, and 2 for a wrong input, or if no
video can be read. Write -- before a name that begins with a dash.

With --out the answers go to a file, .jsonl, .csv or .parquet, as they come: a row a video with its
most probable classes, with --scores all the probabilities of all classes too, or with the reason
why it cannot be read. VIDEO may then also be one list or data set that training reads, such as
test.csv or tfds:NAME:SPLIT (--kind folder for a folder of classes), whose known classes give a
score. Videos are decoded in several processes. FILE.settings.json has the checkpoint, the views and
the names of the classes. The same command goes on with the videos that have no answers yet, also
with new ones. The views are those of the evaluation, and so are the probabilities.

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
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vswin_jax.errors import InputError
from vswin_jax.runtime.callable_module import make_callable
from vswin_jax.runtime.checkpoint_arguments import (
    add_checkpoint_arguments,
    add_views_argument,
    log_downloads,
)
from vswin_jax.runtime.output_path import output_file
from vswin_jax.runtime.printable import printable
from vswin_jax.runtime.script_parser import command_parser, positive_int, print_error, print_reasons
from vswin_jax.runtime.standard_streams import print_message, run_script

if TYPE_CHECKING:
    from vswin_jax.inference import AnsweredVideos, Prediction
    from vswin_jax.reporting import plots

# Arguments that only answers in a file have.
_NEED_OUT = ("scores", "root", "kind", "batch_size", "retry_errors", "overwrite")

# A picture of more rows would be larger than matplotlib can draw.
_MAX_ROWS = 50
_FRAMES_SHOWN = 6


def run(arguments: Sequence[str]) -> int:
    """Print the predictions that the arguments ask for and return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        if options.topk < 1:
            raise InputError(f"Expected --topk to be 1 or more but {options.topk} came.")
        _check_out(options)
        if options.plot:
            options.plot = output_file(options.plot, "--plot", parent_must_exist=True)
        return _write(options) if options.out else _run(options)
    except InputError as error:
        return print_error(error)


def _check_out(options: argparse.Namespace) -> None:
    if options.out and options.plot:
        raise InputError("Expected one of --out and --plot but both came: leave one out.")
    given = [name for name in _NEED_OUT if getattr(options, name) is not None]
    if given and not options.out:
        flag = "--" + given[0].replace("_", "-")
        raise InputError(f"{flag} is about answers in a file: give one with --out FILE.")


def _write(options: argparse.Namespace) -> int:
    """Write the answers to a file."""
    log_downloads()
    from vswin_jax import inference
    from vswin_jax.config.plugins import import_plugins

    import_plugins(options.plugins)
    answered = inference.predict_to_file(
        options.videos,
        options.checkpoint,
        options.out,
        topk=options.topk,
        all_scores=options.scores == "all",
        views=options.views,
        which=options.which,
        labels=options.labels,
        root=options.root or "",
        kind=options.kind or "auto",
        batch_size=options.batch_size,
        retry_errors=bool(options.retry_errors),
        overwrite=bool(options.overwrite),
        report=print_message,
    )
    print_reasons(bad.reason for bad in answered.unreadable)
    _print_answered(answered)
    return (1 if answered.num_videos else 2) if answered.unreadable else 0


def _print_answered(answered: "AnsweredVideos") -> None:
    from vswin_jax.inference.answers.answer_scores import describe_scores

    earlier = f", {answered.earlier} of them by an earlier start" if answered.earlier else ""
    bad = f"; {len(answered.unreadable)} cannot be read" if answered.unreadable else ""
    scores = f"; {describe_scores(answered.scores)}" if answered.scores else ""
    others = f"; {answered.others} of other videos are kept" if answered.others else ""
    videos = f"answers for {answered.num_videos} videos{earlier}{bad}{scores}{others}"
    line = f"{answered.path}: {videos}"
    print(printable(line), flush=True)


def _run(options: argparse.Namespace) -> int:
    log_downloads()
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
    parser = command_parser(__doc__, "predict")
    add = parser.add_argument
    path = {"type": os.path.expanduser}
    add("videos", **path, nargs="+", metavar="VIDEO", help="a video file, or a folder")
    add_checkpoint_arguments(parser)
    add_views_argument(parser)
    add("--topk", type=int, default=5, metavar="K", help="classes a video (5)")
    add("--out", **path, metavar="FILE", help="write the answers to .jsonl, .csv or .parquet")
    add("--scores", choices=("top", "all"), help="classes in FILE (top: those of --topk)")
    add("--root", **path, metavar="DIR", help="where the paths of a list begin")
    add("--kind", help="the format of a list, as config.data.format")
    batch_help = "videos of a batch (that of the evaluation)"
    add("--batch-size", type=positive_int, metavar="N", help=batch_help)
    retry_help = "try videos again that could not be read"
    add("--retry-errors", action="store_true", default=None, help=retry_help)
    add("--overwrite", action="store_true", default=None, help="delete earlier answers of FILE")
    add("--plot", metavar="PNG", help="draw the frames and the probabilities")
    return parser


make_callable(__name__)

if __name__ == "__main__":
    sys.exit(run_script(run))
