"""Explains the predictions of videos, one after another, with decoding in another process."""

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from vswin_jax.data.example import Example
from vswin_jax.errors import InputError
from vswin_jax.inference.clips_ahead import read_ahead
from vswin_jax.inference.explanations.clip_at_time import check_time, read_clip_at
from vswin_jax.inference.explanations.explanation import (
    MIDDLE,
    Explainer,
    Explanation,
    ExplanationSettings,
)
from vswin_jax.inference.explanations.explanation_files import (
    ExplanationPaths,
    save_explanation,
)
from vswin_jax.inference.opened_checkpoint import OpenedCheckpoint, Source, open_checkpoint
from vswin_jax.inference.predictor import FoundVideos, UnreadableVideo, Videos
from vswin_jax.inference.stored_programs import stored_programs
from vswin_jax.inference.trained_model import TrainedModel
from vswin_jax.inference.views import with_views
from vswin_jax.runtime.atomic_write import write_json
from vswin_jax.runtime.progress import Progress

Explained = Iterator[Explanation | UnreadableVideo]
OutputPath = str | os.PathLike[str]
# Beside the files in a directory, so that a second start can go on.
_SETTINGS_FILE = "explain.json"


def explain(
    videos: Videos,
    checkpoint: Source,
    *,
    method: str = "gradcam",
    stage: int | None = None,
    label: str | int | None = None,
    block: int | None = None,
    head: int | None = None,
    query: tuple[float, float, float] = MIDDLE,
    time: float | None = None,
    out: OutputPath | None = None,
    video: OutputPath | None = None,
    map: OutputPath | None = None,
    which: str = "latest",
    labels: Source | None = None,
) -> list[Explanation]:
    """Explain the prediction of each video, and write pictures if paths are given.

    Args:
      videos: one path or several: of video files, folders of frames, or folders with either.
      checkpoint: as for `load`.
      method: "gradcam", or "attention" of one window.
      stage: counted from 0; by default the last one.
      label: a class by name or number, for Grad-CAM; by default the predicted one.
      block: for attention, of the stage; by default the last one.
      head: for attention; by default the mean of all.
      query: for attention, the place (time, height, width, shares of the clip) of the query.
      time: seconds in the video; by default the middle test view.
      out: the strip, a PNG file; a directory for several videos.
      video: the mp4, likewise.
      map: the raw map, .npy, likewise.
      which: as for `load`.
      labels: as for `load`.

    Raises:
      InputError: a wrong option, or a video that is missing or unreadable.
    """
    settings = ExplanationSettings(method, stage, label, block, head, query, time)
    opened = open_checkpoint(checkpoint, which, labels)
    paths = {"out": out, "video": video, "map": map}
    results = explain_each(FoundVideos(videos), opened, settings, paths, go_on=False)
    return [*_all_or_error(results)]


def _all_or_error(results: Explained) -> Iterator[Explanation]:
    for result in results:
        if isinstance(result, UnreadableVideo):
            raise InputError(result.reason)
        yield result


def explain_each(
    found: FoundVideos,
    opened: OpenedCheckpoint,
    settings: ExplanationSettings,
    paths: dict[str, OutputPath | None],
    *,
    go_on: bool = True,
    write_line: Callable[[str], None] = lambda line: None,
) -> Explained:
    """Yield the explanation of each video, once its files are written; see `explain`.

    With `go_on` videos whose files are there are skipped; other settings in the same directory are
    refused.
    """
    examples = found.examples
    outputs = ExplanationPaths.create(paths, len(examples) + len(found.missing))
    explainer = Explainer(TrainedModel(opened), settings)
    check_time(explainer.model.spec, settings.time)
    if outputs.in_directories:
        _check_directories(outputs, opened, settings)
    yield from found.missing
    if not examples:
        return
    files = outputs.of_videos([example.name for example in examples])
    skip = go_on and outputs.in_directories
    pending = [
        (example, own)
        for example, own in zip(examples, files, strict=True)
        if not (skip and all(path.exists() for path in own.values()))
    ]
    if len(pending) < len(examples):
        write_line(f"{len(examples) - len(pending)} of {len(examples)} videos are explained before")
    progress = Progress(len(pending), write_line)
    for example, clip, own in _with_clips(pending, explainer, settings.time):
        yield _explain_one(explainer, example, clip, own)
        progress.add()


def _explain_one(
    explainer: Explainer, example: Example, clip: np.ndarray | InputError, files: dict[str, Path]
) -> Explanation | UnreadableVideo:
    if isinstance(clip, InputError):
        return UnreadableVideo(example.name, str(clip))
    with stored_programs():
        explanation = explainer(example.name, clip)
    save_explanation(explanation, files)
    return explanation


def _with_clips(
    pending: Sequence[tuple[Example, dict[str, Path]]], explainer: Explainer, time: float | None
) -> Iterator[tuple[Example, np.ndarray | InputError, dict[str, Path]]]:
    """Yield each video with its clip `[1, T, H, W, 3]`, or with the error of reading it."""
    if not pending:
        return
    spec = with_views(explainer.model.spec, (1, 1))
    if time is None:
        with read_ahead([example for example, _ in pending], spec) as clips:
            for (example, clip), (_, own) in zip(clips, pending, strict=True):
                yield example, clip, own
        return
    for example, own in pending:
        clip: np.ndarray | InputError
        try:
            clip = read_clip_at(example, spec, time)
        except InputError as error:
            clip = error
        yield example, clip, own


def _check_directories(
    outputs: ExplanationPaths, opened: OpenedCheckpoint, settings: ExplanationSettings
) -> None:
    """Write the settings to each directory.

    Raises:
      InputError: it has explanations by other settings.
    """
    written = {"checkpoint": opened.source, "step": opened.step, **dataclasses.asdict(settings)}
    written = json.loads(json.dumps(written))
    for path in outputs.targets.values():
        _check_directory(path / _SETTINGS_FILE, written)


def _check_directory(file: Path, written: dict[str, object]) -> None:
    earlier: dict[str, object] = written
    with contextlib.suppress(FileNotFoundError, ValueError):
        earlier = json.loads(file.read_text(encoding="utf-8"))
    differing = [name for name, value in written.items() if earlier.get(name) != value]
    if differing:
        name = differing[0]
        raise InputError(
            f"Expected {str(file.parent)!r} to have explanations with {name} {written[name]} but "
            f"they have {earlier.get(name)}: give another directory, or delete this one."
        )
    write_json(file, written)
