"""Predictions for video files: the most probable classes under a checkpoint's model."""

import os

from vswin_jax.errors import InputError
from vswin_jax.inference.kept_predictor import PendingPredictor, PredictorRequest
from vswin_jax.inference.opened_checkpoint import Source
from vswin_jax.inference.predictor import (
    TOPK,
    FoundVideos,
    Prediction,
    Results,
    Videos,
    all_or_error,
    checked_topk,
    predict_found,
)


def predict(
    videos: Videos,
    checkpoint: Source,
    topk: int = TOPK,
    *,
    views: tuple[int, int] | None = None,
    which: str = "latest",
    labels: Source | None = None,
) -> list[Prediction]:
    """Return the `topk` most probable classes of each video under a checkpoint's model.

    The model stays in memory: a second call with the same checkpoint and views neither loads nor
    compiles anything, unless the checkpoint has changed. `Predictor` does so for several models.

    Args:
      videos: one path or several: of video files, of folders of frames, or of folders with either
        at any depth.
      checkpoint: a run's directory, one of its checkpoints, a converted directory, a released
        checkpoint's name, a URL, a PyTorch, safetensors or npz file, or a Hugging Face directory.
      topk: classes for each video; fewer if the model has fewer.
      views: (clips along time, crops along the longer side: 1, 3 or 5) whose probabilities are
        averaged; by default as the run was evaluated.
      which: the checkpoint that a run's directory stands for, "latest" or "best".
      labels: a text file with one class name a line, for weights without names.

    Raises:
      InputError: no such checkpoint, a video that is missing or unreadable, impossible views.
    """
    return all_or_error(
        predict_each(videos, checkpoint, topk, views=views, which=which, labels=labels)
    )


def predict_each(
    videos: Videos,
    checkpoint: Source,
    topk: int = TOPK,
    *,
    views: tuple[int, int] | None = None,
    which: str = "latest",
    labels: Source | None = None,
) -> Results:
    """Yield the prediction of each video as soon as it is made; bad videos do not end the others.

    The arguments are those of `predict`. Paths without videos come first, before the model is
    loaded; all others come in the order of `videos`.

    Raises:
      InputError: at once, if there is no such checkpoint, or `topk` or `views` are impossible.
    """
    checked_topk(topk)
    pending = pending_predictor(checkpoint, views=views, which=which, labels=labels)
    return predict_pending(pending, FoundVideos(videos), topk)


def pending_predictor(
    checkpoint: Source,
    *,
    views: tuple[int, int] | None = None,
    which: str = "latest",
    labels: Source | None = None,
) -> PendingPredictor:
    """Open a checkpoint, or take the predictor that the last call has left; see `predict`."""
    if not isinstance(checkpoint, str | os.PathLike):
        raise InputError(
            f"Expected the checkpoint as a path or a name but a {type(checkpoint).__name__} came: "
            f"the videos are the first argument, the checkpoint is the second one."
        )
    request = PredictorRequest(
        checkpoint=os.path.expanduser(os.fspath(checkpoint)),
        views=None if views is None else tuple(views),
        which=which,
        labels=None if labels is None else os.path.expanduser(os.fspath(labels)),
    )
    return PendingPredictor(request)


def predict_pending(pending: PendingPredictor, found: FoundVideos, topk: int) -> Results:
    """Yield the predictions; the first video is decoded while the model is loaded."""
    return predict_found(found, pending.spec, pending.get, topk)
