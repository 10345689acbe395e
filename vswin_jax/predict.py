"""What is in a video: labels with probabilities, and a picture of them.

    python -m vswin_jax.predict clip.mp4 --checkpoint runs/my_run --plot clip.png

All settings come from the checkpoint. The module itself can be called: `vswin_jax.predict(...)` is
`vswin_jax.predict.predict(...)`.
"""

import argparse
import dataclasses
import os
import re
import sys
import types
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np
from ml_collections import ConfigDict

from vswin_jax import factory
from vswin_jax.checkpoint import check_matches, load_for_inference
from vswin_jax.data.clips.clips import ClipSpec, test_views
from vswin_jax.data.example import Example
from vswin_jax.errors import InputError
from vswin_jax.evaluation import report
from vswin_jax.models import init_params
from vswin_jax.reporting import plots
from vswin_jax.training.steps import make_eval_step
from vswin_jax.training.task import task_of

Video = str | os.PathLike[str]


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of a video, and the clip `[T, H, W, 3]` to show beside them.

    Of a model of sets of labels each probability is a class's own, and they sum to anything.
    """

    video: str
    labels: tuple[str, ...]
    probabilities: tuple[float, ...]
    frames: np.ndarray = dataclasses.field(repr=False, compare=False)

    @property
    def label(self) -> str:
        """The most probable class."""
        return self.labels[0]


def predict(
    videos: Video | Sequence[Video],
    checkpoint: str | os.PathLike[str],
    topk: int = 5,
    *,
    views: tuple[int, int] | None = None,
) -> list[Prediction]:
    """The `topk` most probable classes of each video file, under the model of a checkpoint.

    Args:
        videos: one path or several.
        checkpoint: a run's directory (its best checkpoint), or one step's.
        topk: classes a video; fewer if the model knows fewer.
        views: (clips along time, crops along the longer side: 1, 3 or 5) whose probabilities are
            averaged; by default as the run was evaluated.

    Raises:
        InputError: no such checkpoint, a video that is missing or unreadable, impossible views.
    """
    if topk < 1:
        raise InputError(f"Expected topk to be 1 or more but {topk} came.")
    several = [videos] if isinstance(videos, str | os.PathLike) else list(videos)
    params, metadata = load_for_inference(checkpoint)
    label_names = tuple(metadata["label_names"])
    config = ConfigDict(metadata["config"])
    spec = _with_views(factory.clip_spec(config), views)
    model = factory.build_model(config, len(label_names))
    check_matches(params, jax.eval_shape(lambda: init_params(model, jax.random.key(0))))
    task = task_of(config)
    step = make_eval_step(model, config.eval.views_per_pass, task)
    unknown = task.blank_labels(1, len(label_names))
    params = jax.device_put(params)
    found = []
    for place, video in enumerate(several):
        clips = test_views(Example(os.fspath(video), 0, place, os.fspath(video)), spec)
        batch = {"video": clips[None], "label": unknown, "flip": np.zeros(1, bool)}
        probabilities = jax.device_get(step(params, batch)["probabilities"][0])
        best = np.argsort(-probabilities, kind="stable")[:topk]
        labels = tuple(label_names[k] for k in best)
        shares = tuple(float(probabilities[k]) for k in best)
        found.append(Prediction(os.fspath(video), labels, shares, clips[report.shown_view(spec)]))
    return found


def _with_views(spec: ClipSpec, views: tuple[int, int] | None) -> ClipSpec:
    if views is None:
        return spec
    clips, crops = views
    # Several crops lie along the longer side, so the shorter one has to fit exactly.
    short_side = spec.size if crops > 1 else spec.eval_short_side
    return dataclasses.replace(spec, clips=clips, crops=crops, eval_resize=short_side)


def run(arguments: Sequence[str]) -> int:
    """The command line; prints the predictions and returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        found = predict(options.videos, options.checkpoint, options.topk, views=options.views)
        if options.plot:
            strips = (
                plots.Strip(p.frames, p.labels, p.probabilities, os.path.basename(p.video))
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
        prog="python -m vswin_jax.predict", description="Says what is in a video."
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
