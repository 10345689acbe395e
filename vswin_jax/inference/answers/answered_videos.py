"""Predicts the classes of many videos and writes the answers to a file."""

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from vswin_jax import factory
from vswin_jax.data.clips.clip_spec import ClipSpec
from vswin_jax.data.example import Source
from vswin_jax.data.pipeline.clip_processes import choose_processes
from vswin_jax.data.sources.sources import VideoSource
from vswin_jax.inference.answers.answer_file import AnswerFile, open_answer_file
from vswin_jax.inference.answers.answer_formats import format_of
from vswin_jax.inference.answers.answer_rows import Answer, make_answer
from vswin_jax.inference.answers.answer_scores import score_answers
from vswin_jax.inference.answers.earlier_answers import EarlierAnswers
from vswin_jax.inference.opened_checkpoint import OpenedCheckpoint, open_checkpoint
from vswin_jax.inference.opened_checkpoint import Source as Checkpoint
from vswin_jax.inference.params_digest import params_digest
from vswin_jax.inference.predictor import TOPK, UnreadableVideo, Videos, checked_topk
from vswin_jax.inference.video_batches import BatchOutputs, divisible_batch_size, run_batches
from vswin_jax.inference.video_lists import SomeVideos, VideoList, open_videos
from vswin_jax.inference.views import with_views
from vswin_jax.models import SwinTransformer3D
from vswin_jax.runtime.output_path import output_file
from vswin_jax.runtime.progress import Progress
from vswin_jax.sharding.mesh import make_mesh
from vswin_jax.training.steps import make_eval_step
from vswin_jax.training.task import task_from_config

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AnsweredVideos:
    """The result of `predict_to_file`.

    Attributes:
      path: the file.
      num_videos: the videos with answers.
      earlier: those of them that an earlier start had answered.
      unreadable: the videos without answers, with the reasons.
      scores: the scores by name, if the classes of the videos are known; see `score_answers`.
      others: answers in the file for videos that are not among these.
    """

    path: Path
    num_videos: int
    earlier: int
    unreadable: tuple[UnreadableVideo, ...]
    scores: Mapping[str, float]
    others: int


def predict_to_file(
    videos: Videos,
    checkpoint: Checkpoint | OpenedCheckpoint,
    out: str | os.PathLike[str],
    *,
    topk: int = TOPK,
    all_scores: bool = False,
    views: tuple[int, int] | None = None,
    which: str = "latest",
    labels: str | os.PathLike[str] | None = None,
    root: str | os.PathLike[str] = "",
    kind: str = "auto",
    batch_size: int | None = None,
    processes: int = -1,
    retry_errors: bool = False,
    overwrite: bool = False,
    report: Callable[[str], None] = log.info,
) -> AnsweredVideos:
    """Write the most probable classes of many videos to a file as they come.

    Videos are decoded in several processes while all devices of the machine compute. A second call
    goes on with the videos that have no answers yet, also with ones that are new in the list or
    folder, and keeps the answers for others. A video that cannot be read is a row with the reason.

    Args:
      videos: one path or several, or one list or data set; see `open_videos`.
      checkpoint: as for `predict`.
      out: a file whose suffix names its format: .jsonl, .csv or .parquet. The settings and the
        names of the classes are in a file beside it.
      topk: classes for each video.
      all_scores: write the probabilities of all classes too.
      views: as for `predict`.
      which: as for `predict`.
      labels: as for `predict`.
      root: the folder to which paths in a list are relative.
      kind: the format of a list or data set.
      batch_size: videos of a batch; by default that of the evaluation.
      processes: processes that decode; -1 is one for each usable CPU, 0 uses threads.
      retry_errors: try videos again that could not be read.
      overwrite: delete earlier answers.
      report: gets lines about the progress.

    Raises:
      InputError: no such videos or checkpoint, a wrong option, or answers of other settings.
    """
    path = Path(output_file(os.fspath(out), "out"))
    format_of(path)
    checked_topk(topk)
    is_opened = isinstance(checkpoint, OpenedCheckpoint)
    opened = checkpoint if is_opened else open_checkpoint(checkpoint, which, labels)
    classes = {"label_names": opened.label_names, "multi_label": opened.config.data.multi_label}
    source = open_videos(videos, root=root, kind=kind, **classes)
    model = opened.build_model()
    params = opened.load(model)
    spec = with_views(factory.clip_spec(opened.config), views)
    run = _Run(opened, model, params, source, spec, topk, all_scores, retry_errors)
    with open_answer_file(path, run.settings, overwrite=overwrite) as file:
        return run.write(file, batch_size, choose_processes(processes), report)


@dataclass(frozen=True)
class _Run:
    """The videos and the settings of one call."""

    opened: OpenedCheckpoint
    model: SwinTransformer3D
    params: PyTree
    source: Source
    spec: ClipSpec
    topk: int
    all_scores: bool
    retry_errors: bool

    @property
    def settings(self) -> dict[str, Any]:
        """The content of the settings file."""
        opened, spec = self.opened, self.spec
        names = [*opened.label_names]
        return {
            "checkpoint": opened.source,
            "step": opened.step,
            "weights": params_digest(self.params),
            "model": opened.config.model.name,
            "dtype": opened.config.model.dtype,
            "frames": spec.num_frames,
            "size": spec.size,
            "short_side": spec.eval_short_side,
            "views": f"{spec.num_clips}x{spec.num_crops}",
            "topk": min(self.topk, len(names)),
            "all_scores": self.all_scores,
            "multi_label": self._multi_label,
            # Records have no names until they are read, so their order must be the same.
            "data": None if self._has_names else self.source.identity,
            # The same names below another folder are other videos.
            "root": os.path.abspath(self.source.root) if self._has_root else None,
            "label_names": names,
        }

    @property
    def _multi_label(self) -> bool:
        return self.opened.config.data.multi_label

    @property
    def _has_names(self) -> bool:
        return isinstance(self.source, VideoList | VideoSource)

    @property
    def _has_root(self) -> bool:
        return isinstance(self.source, VideoSource)

    def write(
        self,
        file: AnswerFile,
        batch_size: int | None,
        processes: int,
        report: Callable[[str], None],
    ) -> AnsweredVideos:
        """Answer the videos that have no answers yet, and write all in order."""
        answers, others = self._earlier(file)
        earlier = len(answers)
        missing = [index for index in range(len(self.source)) if index not in answers]
        if missing:
            progress = Progress(len(missing), report)
            videos = SomeVideos(self.source, missing)
            for batch in self._batches(videos, batch_size, processes):
                new = {missing[place]: answer for place, answer in self._answers(batch, videos)}
                file.add([*new.values()])
                answers |= new
                progress.add(len(new))
        ordered = [*self._missing_paths(), *(answers[index] for index in range(len(self.source)))]
        result = self._result(file, ordered, earlier, len(others))
        file.finish([*ordered, *others], result.scores)
        return result

    def _earlier(self, file: AnswerFile) -> tuple[dict[int, Answer], list[Answer]]:
        """Return the answers of earlier starts by the indices of their videos, and those of others.

        Records have no names until they are read: their answers are in order.
        """
        if not self._has_names:
            return dict(enumerate(file.earlier)), []
        earlier = EarlierAnswers(file.earlier, retry_errors=self.retry_errors)
        names = [self.source[index].name for index in range(len(self.source))]
        found = {index: earlier.take(name) for index, name in enumerate(names)}
        missing = [answer.video for answer in self._missing_paths()]
        answers = {index: answer for index, answer in found.items() if answer is not None}
        return answers, earlier.of_others([*names, *missing])

    def _batches(
        self, videos: SomeVideos, batch_size: int | None, processes: int
    ) -> Iterator[BatchOutputs]:
        mesh = make_mesh(devices=jax.local_devices())
        config = self.opened.config
        warning = self.opened.head_warning(self.params)
        if warning:
            log.warning("warning: %s", warning)
        step = make_eval_step(
            self.model,
            config.eval.views_per_pass,
            task_from_config(config),
            mesh,
            config.train.autotune,
        )
        # The same in a later start with fewer videos left: the results are the same to the bit.
        requested = batch_size or min(config.eval.batch_size, len(self.source))
        size = divisible_batch_size(requested, mesh.size)
        return run_batches(
            step, self.params, videos, self.spec, batch_size=size, mesh=mesh, processes=processes
        )

    def _answers(self, batch: BatchOutputs, videos: SomeVideos) -> Iterator[tuple[int, Answer]]:
        """Yield the answers of a batch in the order of its videos."""
        rows = dict(zip(batch.ids.tolist(), batch.outputs["probabilities"], strict=True))
        for place in sorted([*rows, *batch.failures]):
            name, label = videos.take(place)
            truth = self._truth(label)
            if place in batch.failures:
                yield place, Answer(name, truth, error=batch.failures[place])
            else:
                yield place, self._answer(name, truth, rows[place])

    def _answer(
        self, name: str, truth: tuple[str, ...] | None, probabilities: np.ndarray
    ) -> Answer:
        names = self.opened.label_names
        options = {"topk": self.topk, "all_scores": self.all_scores}
        return make_answer(name, truth, probabilities, names, **options)

    def _truth(self, label: int | tuple[int, ...] | None) -> tuple[str, ...] | None:
        if label is None or isinstance(self.source, VideoList):
            return None
        classes = label if isinstance(label, tuple) else (label,)
        return tuple(self.source.label_names[k] for k in classes)

    def _missing_paths(self) -> Iterator[Answer]:
        for missing in getattr(self.source, "missing", ()):
            yield Answer(missing.video, error=missing.reason)

    def _result(
        self, file: AnswerFile, ordered: Sequence[Answer], earlier: int, others: int
    ) -> AnsweredVideos:
        bad = [UnreadableVideo(a.video, a.error) for a in ordered if a.error is not None]
        names, multi_label = self.opened.label_names, self._multi_label
        return AnsweredVideos(
            path=file.path,
            num_videos=len(ordered) - len(bad),
            earlier=earlier,
            unreadable=tuple(bad),
            scores=score_answers(ordered, names, multi_label=multi_label),
            others=others,
        )
