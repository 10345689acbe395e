"""The batches of training and of evaluation: what a batch holds is a function of (seed, step)."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from vswin_jax.data.clips import clips
from vswin_jax.data.clips.clips import ClipSpec, TrainClip, no_times
from vswin_jax.data.decoding.frames import EncodedFrames, FrameFolder
from vswin_jax.data.example import Example, Source
from vswin_jax.data.pipeline.bad_videos import BadVideos, read_or_replace
from vswin_jax.data.pipeline.batches import AUTOTUNE, Batch, Fields, make_batches
from vswin_jax.data.pipeline.clip_processes import ClipMaker, ClipProcesses, shared_processes
from vswin_jax.data.pipeline.sampler import Order, host_position
from vswin_jax.errors import InputError

__all__ = ["AUTOTUNE", "eval_batches", "train_batches"]

# Rows of a training run; a range of this length costs nothing.
_ENDLESS = 2**62
Label = int | tuple[int, ...] | np.ndarray


def train_batches(
    source: Source,
    spec: ClipSpec,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    class_balance: float = 0.0,
    repeats: int = 1,
    mirrored_labels: np.ndarray | None = None,
    threads: int = AUTOTUNE,
    processes: int = 0,
    prefetch: int = 2,
    bad_videos: BadVideos | None = None,
) -> Iterator[Batch]:
    """Endless batches of this host from step `start_step` on, one view a video.

    `batch_size` is the global one; a host yields `batch_size // process_count` rows. Keys: video
    uint8 [B, 1, T, H, W, 3], label int32 [B] or, of a source with sets of labels, float32 [B, K]
    with a 1 for each class of a set, mask float32 [B], id int32 [B], flip bool [B]; and what was
    drawn, as `TrainClip` has it: epoch int32 [B], frames int32 [B, T], box int32 [B, 4].

    A video that cannot be read is replaced by another, whose label and id the row has; `bad_videos`
    counts and names them.

    Args:
        class_balance: 0, every example once an epoch, to 1, every class equally often, as
            `order.balanced_turns` says.
        repeats: clips of every video that is read, in the same batch: an epoch has so many times
            its examples. A host's rows are the first clips of all its videos, then the second ones,
            so that mixing, which takes neighbours, does not mix a video with itself.
        mirrored_labels: int [K], the label of a clip that is mirrored (`mirrored_labels`); None
            keeps the labels as they are.
        processes: that decode; 0: the `threads` do. Batches are the same to the byte.

    Raises:
        InputError: at once for settings that do not fit; while iterating, when too many videos
            cannot be read.
    """
    _check_order(class_balance, repeats)
    rows = _rows_per_host(source, batch_size, process_count, repeats)
    _check_times(source, spec)
    videos = rows // repeats
    labels = _single_labels(source) if class_balance else None
    order = Order(seed, len(source), labels, class_balance)
    bad_videos = bad_videos or BadVideos()
    maker: ClipMaker = shared_processes(processes) if processes else clips

    def load(place: int, rows: Batch) -> None:
        step = start_step + place // videos
        position = host_position(
            step,
            place % videos,
            batch_size=batch_size // repeats,
            process_index=process_index,
            process_count=process_count,
        )
        turn = order.at(position)
        example, made = read_or_replace(
            lambda example, rng: maker.train_clips(
                example, spec, rng, repeats, out=rows["video"][:, 0]
            ),
            source,
            turn.example,
            bad_videos,
            seed=seed,
            epoch=turn.epoch,
            step=step,
            occurrence=turn.occurrence,
        )
        for row, clip in enumerate(made):
            _fill_train_row(rows, row, example, clip, turn.epoch, mirrored_labels)

    shape = (1, spec.num_frames, spec.size, spec.size, 3)
    fields = _fields(source, shape) | _draw_fields(spec.num_frames)
    reading = _reading(maker, threads, prefetch) | {"repeats": repeats}
    return make_batches(load, _ENDLESS, videos, fields, **reading)


def _fill_train_row(
    rows: Batch,
    row: int,
    example: Example,
    clip: TrainClip,
    epoch: int,
    mirrored_labels: np.ndarray | None,
) -> None:
    label = example.label
    if clip.mirrored and mirrored_labels is not None:
        label = mirrored_labels.take(label)
    _fill_row(rows, row, label, example.id, flip=clip.flip)
    draws = {"epoch": epoch, "frames": clip.frames, "box": clip.box}
    for key, value in draws.items():
        rows[key][row] = value


def eval_batches(
    source: Source,
    spec: ClipSpec,
    *,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    threads: int = AUTOTUNE,
    processes: int = 0,
    prefetch: int = 2,
) -> Iterator[Batch]:
    """Every video once over all hosts, with all its views; every host yields as many batches.

    `batch_size` is the global number of videos. Keys as in training, without the draws; video is
    [B, V, T, H, W, 3]; padding rows have mask 0, id -1, label 0 (or all zeros) and black
    frames. `threads` and `processes` are those of training.

    Raises:
        InputError: at once for sizes that do not fit; while iterating, for the first video that
            cannot be read: scores of a part of a set are not comparable with those of the whole.
    """
    rows = _rows_per_host(source, batch_size, process_count)
    _check_times(source, spec)
    steps = -(-len(source) // batch_size)
    shape = (spec.views, spec.num_frames, spec.size, spec.size, 3)
    maker: ClipMaker = shared_processes(processes) if processes else clips

    def load(place: int, row: Batch) -> None:
        index = host_position(
            place // rows,
            place % rows,
            batch_size=batch_size,
            process_index=process_index,
            process_count=process_count,
        )
        if index >= len(source):
            row["video"][0] = 0
            return _fill_row(row, 0, () if source.multi_label else 0, -1, mask=0.0)
        example = source[index]
        maker.test_views(example, spec, out=row["video"][0])
        return _fill_row(row, 0, example.label, example.id)

    reading = _reading(maker, threads, prefetch)
    return make_batches(load, steps * rows, rows, _fields(source, shape), **reading)


def _reading(maker: ClipMaker, threads: int, prefetch: int) -> dict[str, Any]:
    """How `make_batches` reads; processes want a thread each, and one that has the next video."""
    if not isinstance(maker, ClipProcesses):
        return {"threads": threads, "prefetch": prefetch}
    waiting = maker.count + 1 if threads == AUTOTUNE else threads
    return {"threads": waiting, "prefetch": prefetch, "memory": {"video": maker.memory.empty}}


def _rows_per_host(source: Source, batch_size: int, process_count: int, repeats: int = 1) -> int:
    if batch_size < 1 or batch_size % (process_count * repeats):
        of_repeats = f" times the {repeats} repeats of a video" if repeats > 1 else ""
        raise InputError(
            f"The global batch size must be a positive multiple of the {process_count} "
            f"process{'es' if process_count > 1 else ''}{of_repeats} but is {batch_size}."
        )
    if not len(source):
        raise InputError("There are no examples to make batches of.")
    return batch_size // process_count


def _check_order(class_balance: float, repeats: int) -> None:
    if not (0 <= class_balance <= 1 and repeats >= 1):
        raise InputError(
            f"Expected class_balance from 0 to 1 and repeats from 1 up but {class_balance} and "
            f"{repeats} came: change them."
        )


def _check_times(source: Source, spec: ClipSpec) -> None:
    # While training, the replacements of all of them would be blamed one by one.
    video = source[0].video if spec.fps else ""
    is_timeless = isinstance(video, EncodedFrames) and video.times is None
    if is_timeless or isinstance(video, FrameFolder):
        raise no_times(source[0].name, spec)


def _single_labels(source: Source) -> np.ndarray:
    labels = getattr(source, "labels", None)
    if isinstance(labels, np.ndarray) and labels.ndim == 1 and labels.dtype.kind in "iu":
        return labels
    raise InputError(
        "config.data.class_balance needs one class for every video but this data set has not: set "
        "it to 0."
    )


def _fill_row(
    rows: Batch, row: int, label: Label, example_id: int, *, mask: float = 1.0, flip: bool = False
) -> None:
    if rows["label"].ndim == 1:
        rows["label"][row] = label
    else:
        rows["label"][row] = 0.0
        rows["label"][row, list(label)] = 1.0
    rows["mask"][row], rows["id"][row], rows["flip"][row] = mask, example_id, flip


def _fields(source: Source, video_shape: tuple[int, ...]) -> Fields:
    sets = (np.float32, (len(source.label_names),))
    return {
        "video": (np.uint8, video_shape),
        "label": sets if source.multi_label else (np.int32, ()),
        "mask": (np.float32, ()),
        "id": (np.int32, ()),
        "flip": (np.bool_, ()),
    }


def _draw_fields(num_frames: int) -> Fields:
    shapes = {"epoch": (), "frames": (num_frames,), "box": (4,)}
    return {key: (np.int32, shape) for key, shape in shapes.items()}
