"""Callables that fill the rows of one video in a batch, for training and for evaluation."""

from dataclasses import dataclass

import numpy as np

from vswin_jax.data.clips.clip_spec import ClipSpec
from vswin_jax.data.clips.clips import TrainClip
from vswin_jax.data.example import Example, Source
from vswin_jax.data.pipeline.bad_videos import BadVideos, read_or_replace
from vswin_jax.data.pipeline.batch_builder import Batch
from vswin_jax.data.pipeline.clip_processes import ClipLoader
from vswin_jax.data.pipeline.sampler import Sampler, host_position
from vswin_jax.errors import InputError

Label = int | tuple[int, ...] | np.ndarray


@dataclass(frozen=True)
class HostShard:
    """The share of every global batch of `global_videos` videos that one host reads."""

    global_videos: int
    process_index: int
    process_count: int

    @property
    def videos(self) -> int:
        """The number of videos in a batch of this host."""
        return self.global_videos // self.process_count

    def locate(self, index: int, start_step: int = 0) -> tuple[int, int]:
        """Return (step, stream position) of the host's video `index`, counted from `start_step`."""
        step = start_step + index // self.videos
        position = host_position(
            step=step,
            row=index % self.videos,
            batch_size=self.global_videos,
            process_index=self.process_index,
            process_count=self.process_count,
        )
        return step, position


@dataclass(frozen=True)
class TrainRows:
    """Loads `aug_repeats` clips of a training video; threads may share an instance.

    `mirrored_labels` is int [K], the label of a mirrored clip of each class; None changes no label.
    """

    source: Source
    spec: ClipSpec
    clip_loader: ClipLoader
    shard: HostShard
    sampler: Sampler
    seed: int
    start_step: int
    aug_repeats: int
    mirrored_labels: np.ndarray | None
    bad_videos: BadVideos

    def __call__(self, index: int, rows: Batch) -> None:
        """Fill the `rows` of video `index` of this host, counted from the first step."""
        step, position = self.shard.locate(index, self.start_step)
        state = self.sampler.at(position)

        def read(example: Example, rng: np.random.Generator) -> list[TrainClip]:
            out = rows["video"][:, 0]
            return self.clip_loader.train_clips(example, self.spec, rng, self.aug_repeats, out=out)

        example, train_clips = read_or_replace(
            read, self.source, state, self.bad_videos, seed=self.seed, step=step
        )
        for row, clip in enumerate(train_clips):
            _fill_row(rows, row, self._label(example, clip), example.id, flip=clip.flip)
            rows["epoch"][row] = state.epoch
            rows["frames"][row] = clip.frames
            rows["box"][row] = clip.box

    def _label(self, example: Example, clip: TrainClip) -> Label:
        if clip.mirrored and self.mirrored_labels is not None:
            return self.mirrored_labels.take(example.label)
        return example.label


@dataclass(frozen=True)
class EvalRows:
    """Loads all views of an evaluation video, or a padding row after the last video.

    A video that cannot be read is an error, or, with `omitted`, a padding row that has its id; its
    index and the reason are added there.
    """

    source: Source
    spec: ClipSpec
    clip_loader: ClipLoader
    shard: HostShard
    omitted: dict[int, str] | None = None

    def __call__(self, index: int, rows: Batch) -> None:
        """Fill `rows`, which holds the single row of video `index` of this host."""
        _, position = self.shard.locate(index)
        if position >= len(self.source):
            self._pad(rows, -1)
            return
        try:
            self._load(position, rows)
        except InputError as error:
            if self.omitted is None:
                raise
            self.omitted[position] = str(error)
            self._pad(rows, position)

    def _load(self, position: int, rows: Batch) -> None:
        example = self.source[position]
        self.clip_loader.test_views(example, self.spec, out=rows["video"][0])
        _fill_row(rows, 0, example.label, example.id)

    def _pad(self, rows: Batch, example_id: int) -> None:
        rows["video"][0] = 0
        _fill_row(rows, 0, () if self.source.multi_label else 0, example_id, mask=0.0)


def _fill_row(
    rows: Batch, row: int, label: Label, example_id: int, *, mask: float = 1.0, flip: bool = False
) -> None:
    if rows["label"].ndim == 1:
        rows["label"][row] = label
    else:
        rows["label"][row] = 0.0
        rows["label"][row, list(label)] = 1.0
    rows["mask"][row], rows["id"][row], rows["flip"][row] = mask, example_id, flip
