"""The classes of a live source: a camera, a network stream or a pipe."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from vswin_jax.data.clips.window_plan import check_windows
from vswin_jax.inference.opened_checkpoint import Source, open_checkpoint
from vswin_jax.inference.timelines.live_reader import LiveReader
from vswin_jax.inference.timelines.window_scores import WindowScorer, crop_window
from vswin_jax.runtime.cpu_count import usable_cpus

log = logging.getLogger(__name__)

# The model needs the other cores.
_MAX_THREADS = 4


@dataclass(frozen=True)
class LiveScores:
    """The most probable classes of one window of a live source.

    Attributes:
      time: of the window's last frame, in seconds from the source's first frame.
      labels: the most probable first.
      probabilities: those of `labels`.
      dropped: the windows that were left out since the last one, because the model was too slow.
    """

    time: float
    labels: tuple[str, ...]
    probabilities: tuple[float, ...]
    dropped: int


def live_timeline(
    source: str,
    checkpoint: Source | WindowScorer,
    *,
    stride: float = 1.0,
    window: float | None = None,
    crops: int | None = None,
    topk: int = 5,
    which: str = "latest",
    labels: Source | None = None,
    report: Callable[[str], None] = log.info,
) -> Iterator[LiveScores]:
    """Yield the classes of a live source every `stride` seconds, until it ends.

    Each result is of the newest frames: if the model is slower than the stride, windows are left
    out, and if decoding is slower than the source, frames that no other frame needs.

    Args:
      source: a camera device such as /dev/video0, an address that FFmpeg opens, or "-" for stdin.
      checkpoint: as for `timeline`, and so are the following.
      stride: seconds from a result to the next one, by the time of the source.
      window: seconds of a window, for a model with uniform sampling alone.
      crops: along the longer side.
      topk: classes of a result.
      which: as for `load`.
      labels: as for `load`.
      report: gets a line when the source is open.

    Raises:
      InputError: a wrong option, or a source that cannot be opened or has failed.
    """
    if isinstance(checkpoint, WindowScorer):
        scorer = checkpoint
    else:
        scorer = WindowScorer(open_checkpoint(checkpoint, which, labels), crops=crops)
    spec = scorer.spec
    check_windows(spec, stride, window)
    # Compiled before the source is opened, whose first windows would be left out.
    scorer.score_clip(np.zeros((spec.views, spec.num_frames, spec.size, spec.size, 3), np.uint8))
    reader = LiveReader(source, spec, window, min(usable_cpus(), _MAX_THREADS))
    report(f"{source} is open: a line every {stride:g} s, Ctrl-C ends it")
    with contextlib.closing(reader):
        yield from _score(reader, scorer, stride, topk)


def _score(
    reader: LiveReader, scorer: WindowScorer, stride: float, topk: int
) -> Iterator[LiveScores]:
    due = 0.0
    while (found := reader.wait_until(due)) is not None:
        time, frames = found
        probabilities = scorer.score_clip(crop_window(frames, scorer.spec))
        best = np.argsort(-probabilities, kind="stable")[:topk]
        missed = int((time - due) / stride) if due else 0
        due = (due if due else time) + (missed + 1) * stride
        yield LiveScores(
            time=time,
            labels=tuple(scorer.model.label_names[k] for k in best),
            probabilities=tuple(float(probabilities[k]) for k in best),
            dropped=missed,
        )
