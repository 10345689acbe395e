"""Computes the timeline of one long video, in bounded memory."""

import contextlib
import dataclasses
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from vswin_jax.data.clips.window_plan import check_windows
from vswin_jax.data.pipeline.frame_cursor import LongVideo
from vswin_jax.errors import InputError
from vswin_jax.inference.opened_checkpoint import Source, open_checkpoint
from vswin_jax.inference.timelines.annotated_video import write_annotated
from vswin_jax.inference.timelines.frame_stream import FrameStream, decoder_threads
from vswin_jax.inference.timelines.score_store import ScoreStore, open_store
from vswin_jax.inference.timelines.segments import SMOOTH, THRESHOLD, SegmentOptions, find_segments
from vswin_jax.inference.timelines.timeline_files import Timeline, write_timeline
from vswin_jax.inference.timelines.timeline_settings import timeline_settings
from vswin_jax.inference.timelines.window_scores import WindowScorer
from vswin_jax.inference.trained_model import TrainedModel
from vswin_jax.inference.video_paths import VideoPath, find_one_video
from vswin_jax.runtime.output_path import output_directory, output_file
from vswin_jax.runtime.progress import Progress

log = logging.getLogger(__name__)

TOPK = 5
_THUMBNAILS = 10


def timeline(
    video: VideoPath,
    checkpoint: Source | WindowScorer,
    *,
    stride: float = 1.0,
    window: float | None = None,
    smooth: float = SMOOTH,
    threshold: float = THRESHOLD,
    shortest: float = 0.0,
    crops: int | None = None,
    frame_rate: float | None = None,
    out: str | os.PathLike[str] | None = None,
    annotate: str | os.PathLike[str] | None = None,
    topk: int = TOPK,
    which: str = "latest",
    labels: Source | None = None,
    batch_size: int | None = None,
    overwrite: bool = False,
    report: Callable[[str], None] = log.info,
) -> Timeline:
    """Return the probabilities of the classes over the time of a video, and its segments.

    The video may last hours: each frame is decoded once, and those of a few windows are in memory.

    Args:
      video: a video file, or a folder of frames.
      checkpoint: as for `load`, or a `WindowScorer`, which is compiled once for several videos.
      stride: seconds from the start of a window to that of the next one.
      window: seconds of a window, for a model with uniform sampling alone.
      smooth: seconds over which probabilities are averaged before segments are found.
      threshold: the least probability of a class in a segment.
      shortest: seconds of the shortest segment.
      crops: along the longer side, 1, 3 or 5; by default those of the run's evaluation.
      frame_rate: frames a second of a folder of frames.
      out: a directory for the files, in which a second call goes on where the first one stopped.
      annotate: an mp4 to write, with the classes of the segments on the frames.
      topk: classes of a window in the files.
      which: as for `load`.
      labels: as for `load`.
      batch_size: windows of a batch; by default up to 8 a device.
      overwrite: delete an earlier timeline in `out`.
      report: gets lines about the progress.

    Raises:
      InputError: a wrong option, a video that cannot be read, or a directory of other settings.
    """
    options = SegmentOptions(threshold, smooth, shortest)
    outputs = _Outputs.create(out, annotate, topk, overwrite, report)
    found = find_one_video(video)
    if not isinstance(checkpoint, WindowScorer):
        opened = open_checkpoint(checkpoint, which, labels)
        checkpoint = WindowScorer(opened, crops=crops, batch_size=batch_size)
    spec = checkpoint.spec
    check_windows(spec, stride, window)
    threads = decoder_threads()
    source = LongVideo(found.video, found.path, spec, stride, window, frame_rate, threads)
    return _write(source, checkpoint, options, outputs)


@dataclass(frozen=True)
class _Outputs:
    """The files of one call."""

    directory: Path | None
    annotated: Path | None
    topk: int
    overwrite: bool
    report: Callable[[str], None]

    @classmethod
    def create(
        cls,
        out: str | os.PathLike[str] | None,
        annotate: str | os.PathLike[str] | None,
        topk: int,
        overwrite: bool,
        report: Callable[[str], None],
    ) -> "_Outputs":
        """Check the paths before any work.

        Raises:
          InputError: one cannot be written.
        """
        directory = None if out is None else output_directory(out, "out")
        annotated = None if annotate is None else output_file(annotate, "annotate")
        return cls(directory, annotated, topk, overwrite, report)


def _write(
    source: LongVideo, scorer: WindowScorer, options: SegmentOptions, outputs: _Outputs
) -> Timeline:
    directory, report = outputs.directory, outputs.report
    with FrameStream(source) as stream, _open_scores(stream, scorer, outputs) as store:
        _compute(scorer, stream, store, report)
        result = build_timeline(stream, store.scores, scorer.model, options)
        if directory is not None:
            thumbnails = _thumbnails(stream, len(result.starts))
            write_timeline(directory, result, outputs.topk, thumbnails)
    if outputs.annotated is not None:
        write_annotated(outputs.annotated, source, result, options, report)
    return result


def _open_scores(
    stream: FrameStream, scorer: WindowScorer, outputs: _Outputs
) -> contextlib.AbstractContextManager[ScoreStore]:
    """Open the directory of the outputs; without one the scores stay in memory."""
    batch_size = scorer.batch_size
    if outputs.directory is None:
        num_classes = len(scorer.model.label_names)
        return contextlib.nullcontext(ScoreStore(None, num_classes, batch_size))
    settings = timeline_settings(stream.source, stream.plan, scorer)
    return open_store(outputs.directory, settings, batch_size, overwrite=outputs.overwrite)


def _compute(
    scorer: WindowScorer, stream: FrameStream, store: ScoreStore, report: Callable[[str], None]
) -> None:
    """Compute the windows that the store does not have."""
    total = len(stream.plan.indices)
    first = store.begin(total)
    if first == total:
        return
    before = f", {first} of them computed before" if first else ""
    report(f"{total} windows of {stream.plan.duration:.0f} s{before}; {scorer.model.note}")
    progress = Progress(total - first, report, unit="windows")
    for rows in scorer.score(stream, first):
        store.add(rows)
        progress.add(len(rows))
    if not len(store.scores):
        raise InputError(stream.failure)
    store.finish()


def build_timeline(
    stream: FrameStream,
    scores: Float32[np.ndarray, "W K"],
    model: TrainedModel,
    options: SegmentOptions,
) -> Timeline:
    """Return the timeline of the probabilities of the first W windows of a video."""
    plan, count, names = stream.plan, len(scores), model.label_names
    found = Timeline(
        video=stream.source.name,
        duration=plan.duration,
        starts=plan.starts[:count],
        ends=plan.ends[:count],
        probabilities=scores,
        label_names=names,
        segments=(),
        failure=stream.failure,
    )
    independent = model.config.data.multi_label
    segments = find_segments(
        scores, found.times, found.end, names, options, independent=independent
    )
    return dataclasses.replace(found, segments=tuple(segments))


def _thumbnails(stream: FrameStream, num_windows: int) -> np.ndarray:
    """Read frames that are spread evenly over the windows; none if they cannot be read."""
    count = min(_THUMBNAILS, num_windows)
    shares = (np.arange(count) + 0.5) / count
    middles = stream.plan.indices[:num_windows, stream.plan.indices.shape[1] // 2]
    chosen = middles[(shares * num_windows).astype(int)]
    with contextlib.suppress(InputError):
        return stream.read_at(chosen)
    return np.zeros((0, 1, 1, 3), np.uint8)
