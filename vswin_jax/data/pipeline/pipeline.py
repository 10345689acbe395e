"""Training and evaluation batches; their content is a function of (seed, step).

A batch is a dict of NumPy arrays with the B rows of one host:

- video: uint8 [B, V, T, H, W, 3] with V views of each video, 1 in training
- label: int32 [B]; of a source with label sets float32 [B, K], 1 at every class of the set
- mask: float32 [B], 0 for padding rows
- id: int32 [B], the index of the example in the source, -1 for padding rows; those in place of a
  held-out video that cannot be read have its index
- flip: bool [B], True if the device has to flip the clip

Training batches also have the random draws of `TrainClip`: epoch int32 [B], frames int32 [B, T] and
box int32 [B, 4].
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from vswin_jax.data.clips import clips
from vswin_jax.data.clips.clip_augmentations import check_importable
from vswin_jax.data.clips.clip_spec import ClipSpec
from vswin_jax.data.clips.frame_indices import no_timestamps_error
from vswin_jax.data.decoding.frames import EncodedFrames, FrameFolder
from vswin_jax.data.example import Source
from vswin_jax.data.pipeline.bad_videos import BadVideos
from vswin_jax.data.pipeline.batch_builder import Batch, Fields
from vswin_jax.data.pipeline.batches import AUTOTUNE, make_batches
from vswin_jax.data.pipeline.clip_processes import ClipLoader, ClipProcesses, shared_processes
from vswin_jax.data.pipeline.row_loaders import EvalRows, HostShard, TrainRows
from vswin_jax.data.pipeline.sampler import Sampler
from vswin_jax.errors import InputError

__all__ = ["AUTOTUNE", "eval_batches", "train_batches"]

# The number of videos in the endless training stream; a `range` of this length takes no memory.
_ENDLESS = 2**62


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
    aug_repeats: int = 1,
    mirrored_labels: np.ndarray | None = None,
    threads: int = AUTOTUNE,
    processes: int = 0,
    prefetch: int = 2,
    bad_videos: BadVideos | None = None,
) -> Iterator[Batch]:
    """Return endless batches of this host from step `start_step` on.

    `batch_size` is the global number of rows. `class_balance` is the `balance` of `Sampler`. Each
    video that is read gives `aug_repeats` rows of its batch; the first clips of all videos come
    before the second ones, so that mixing, which pairs neighbours, pairs different videos.
    `mirrored_labels` is that of `TrainRows`. With `processes` above 0, processes decode instead of
    threads; the batches are the same. A video that cannot be read is counted by `bad_videos` and
    replaced by another one; the row has the label and id of the replacement.

    Raises:
      InputError: at once for a wrong option; later if too many videos cannot be read.
    """
    _check_sampling(class_balance, aug_repeats)
    _check_batch_size(source, batch_size, process_count, aug_repeats)
    _check_timestamps(source, spec)
    if processes:
        check_importable(spec.augmentations)
    labels = _single_labels(source) if class_balance else None
    rows = TrainRows(
        source=source,
        spec=spec,
        clip_loader=_clip_loader(processes),
        shard=HostShard(batch_size // aug_repeats, process_index, process_count),
        sampler=Sampler(seed, len(source), labels, class_balance),
        seed=seed,
        start_step=start_step,
        aug_repeats=aug_repeats,
        mirrored_labels=mirrored_labels,
        bad_videos=bad_videos or BadVideos(),
    )
    fields = _fields(source, spec, views=1) | _draw_fields(spec.num_frames)
    options = _reading_options(rows.clip_loader, threads, prefetch)
    return make_batches(rows, _ENDLESS, rows.shard.videos, fields, repeats=aug_repeats, **options)


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
    omitted: dict[int, str] | None = None,
) -> Iterator[Batch]:
    """Return batches with all views of every video, each video on one host.

    `batch_size` is the global number of videos; the other options are those of `train_batches`. All
    hosts have equally many batches. Padding rows have label 0, or all zeros, and black frames.
    With `omitted`, the index of each video that cannot be read is added to it, with the reason,
    before its batch is returned, and the row is a padding row with the id of the video.

    Raises:
      InputError: at once for a wrong option; without `omitted`, later for the first video that
        cannot be read.
    """
    _check_batch_size(source, batch_size, process_count)
    _check_timestamps(source, spec)
    shard = HostShard(batch_size, process_index, process_count)
    steps = -(-len(source) // batch_size)
    rows = EvalRows(source, spec, _clip_loader(processes), shard, omitted)
    fields = _fields(source, spec, views=spec.views)
    options = _reading_options(rows.clip_loader, threads, prefetch)
    return make_batches(rows, steps * shard.videos, shard.videos, fields, **options)


def _clip_loader(processes: int) -> ClipLoader:
    return shared_processes(processes) if processes else clips


def _reading_options(clip_loader: ClipLoader, threads: int, prefetch: int) -> dict[str, Any]:
    """Return the options of `make_batches` that depend on where the clips are decoded."""
    if not isinstance(clip_loader, ClipProcesses):
        return {"threads": threads, "prefetch": prefetch}
    # Every process needs a thread that waits for it; one more has the next video ready.
    return {
        "threads": clip_loader.count + 1 if threads == AUTOTUNE else threads,
        "prefetch": prefetch,
        "allocators": {"video": clip_loader.memory.empty},
    }


def _check_sampling(class_balance: float, aug_repeats: int) -> None:
    if not (0 <= class_balance <= 1 and aug_repeats >= 1):
        raise InputError(
            f"Expected class_balance from 0 to 1 and aug_repeats from 1 up but {class_balance} and "
            f"{aug_repeats} came: change them.",
            ["class_balance", "aug_repeats"],
        )


def _check_batch_size(
    source: Source, batch_size: int, process_count: int, aug_repeats: int = 1
) -> None:
    if batch_size < 1 or batch_size % (process_count * aug_repeats):
        times = f" times aug_repeats ({aug_repeats})" if aug_repeats > 1 else ""
        raise InputError(
            f"The global batch size must be a positive multiple of the {process_count} "
            f"process{'es' if process_count > 1 else ''}{times} but is {batch_size}.",
            ["The global batch size", "aug_repeats"],
        )
    if not len(source):
        raise InputError("There are no examples to make batches of.")


def _check_timestamps(source: Source, spec: ClipSpec) -> None:
    # In training, every video would otherwise count as a bad one and be replaced.
    try:
        first = source[0] if spec.fps else None
    except InputError:
        return  # A damaged record is replaced like any other.
    video = first and first.video
    is_untimed = isinstance(video, EncodedFrames) and video.times is None
    if is_untimed or isinstance(video, FrameFolder):
        raise no_timestamps_error(first.name, spec)


def _single_labels(source: Source) -> np.ndarray:
    labels = getattr(source, "labels", None)
    if isinstance(labels, np.ndarray) and labels.ndim == 1 and labels.dtype.kind in "iu":
        return labels
    raise InputError(
        "config.data.class_balance needs one class for every video, which this data set does not "
        "have: set it to 0."
    )


def _fields(source: Source, spec: ClipSpec, views: int) -> Fields:
    label_sets = (np.float32, (len(source.label_names),))
    return {
        "video": (np.uint8, (views, spec.num_frames, spec.size, spec.size, 3)),
        "label": label_sets if source.multi_label else (np.int32, ()),
        "mask": (np.float32, ()),
        "id": (np.int32, ()),
        "flip": (np.bool_, ()),
    }


def _draw_fields(num_frames: int) -> Fields:
    return {
        "epoch": (np.int32, ()),
        "frames": (np.int32, (num_frames,)),
        "box": (np.int32, (4,)),
    }
