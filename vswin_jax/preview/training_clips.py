"""What the model really gets, for people to look at: a batch after the device's part of the work.

The functions that prepare a batch are those of the training and the evaluation step themselves.
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import av
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from vswin_jax.data.clips.clips import ClipSpec
from vswin_jax.data.decoding.decode import open_video
from vswin_jax.data.decoding.frames import EncodedFrames, FrameFolder
from vswin_jax.data.example import Example, Source
from vswin_jax.data.sources.labels import NO_CLASS, describe_label
from vswin_jax.reporting.contact_sheet import ShownClip, draw_sheet, save_sheet
from vswin_jax.training.steps import prepare, preprocess, step_keys, to_pixels
from vswin_jax.training.task import task_of

Batch = Mapping[str, np.ndarray | jax.Array]
COUNT = 8
_LEAST_SHARE = 0.005  # of a label: less would be written as 0
_FRAMES_RATE = 30.0  # frames a second of a video that is a folder of frames


def training_clips(
    batch: Batch,
    step: int,
    *,
    config: ConfigDict,
    source: Source,
    count: int = COUNT,
    mesh: Mesh | None = None,
) -> list[ShownClip]:
    """The first `count` clips of the batch that is trained on after `step` steps.

    The whole batch is prepared, because mixing takes from its neighbours. With a `mesh`, every
    process has to call this with the batch placed on it.
    """
    everywhere = NamedSharding(mesh, PartitionSpec()) if mesh else None
    look = jax.jit(_Look(config, len(source.label_names), count), out_shardings=everywhere)
    shown = jax.device_get(look(step, dict(batch)))
    names = source.label_names
    return [
        ShownClip(
            shown["clips"][row],
            describe_target(shown["targets"][row], names),
            source[int(shown["id"][row])].name,
            describe_frames(shown["frames"][row]) if "frames" in shown else "",
        )
        for row in np.flatnonzero(shown["mask"])
    ]


class _Look:
    """From (step, batch) to what of its first rows is shown; to be compiled."""

    def __init__(self, config: ConfigDict, num_classes: int, count: int) -> None:
        self._seed, self._count = config.seed, count
        # Smoothing would blur the shares of mixed labels; it changes no pixel.
        self._settings = {**config.loss, "num_classes": num_classes, "label_smoothing": 0.0}
        self._settings["task"] = task_of(config)

    def __call__(self, step: jax.Array, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        augment_key, _ = step_keys(self._seed, step)
        inputs = prepare(augment_key, batch, **self._settings)
        shown = {
            "clips": to_pixels(inputs.clips[: self._count]),
            "targets": inputs.targets[: self._count],
        }
        others = {"id", "mask", "frames"} & batch.keys()
        return shown | {name: batch[name][: self._count] for name in others}


def evaluation_clips(batch: Batch, *, source: Source, count: int = COUNT) -> list[ShownClip]:
    """The first `count` views of an evaluation's batch, video by video."""
    views = batch["video"].shape[1]
    shown: list[ShownClip] = []
    rows = zip(*(batch[name] for name in ("video", "flip", "id", "mask")), strict=True)
    for video, flip, row, mask in rows:
        if not mask or len(shown) >= count:
            break
        clips = to_pixels(preprocess(jnp.asarray(video), jnp.full(views, flip)))
        example = source[int(row)]
        label = describe_label(example.label, source.label_names)
        shown += [
            ShownClip(clip, f"{label} (view {view} of {views})", example.name)
            for view, clip in enumerate(np.asarray(clips), 1)
        ]
    return shown[:count]


def draw_first_batch(
    batch: Batch, *, config: ConfigDict, source: Source, workdir: Path, mesh: Mesh
) -> np.ndarray:
    """Draws the first batch of a run, uint8 [H, W, 3], and saves it as `workdir`/clips.png."""
    clips = training_clips(batch, 0, config=config, source=source, mesh=mesh)
    sheet = draw_sheet(clips, describe_batch(config, "train", 0, clips))
    if jax.process_index() == 0:
        save_sheet(workdir / "clips.png", sheet)
    return sheet


def describe_batch(config: ConfigDict, split: str, step: int, clips: Sequence[ShownClip]) -> str:
    """The title of a sheet."""
    length, height, width, _ = clips[0].frames.shape
    size = f"{length} frames of {height}x{width} pixels"
    return f"{config.name or 'run'}: what the model gets, {split}, step {step}; clips of {size}"


def describe_target(target: np.ndarray, names: Sequence[str]) -> str:
    """A target `[K]` in words: "jump", or "0.7 jump + 0.3 run" where clips are mixed.

    Of sets of labels "jump + run", or "jump + 0.3 run" where only one of the mixed clips has both.
    """
    best = [k for k in np.argsort(-target, kind="stable") if target[k] > _LEAST_SHARE]
    shares = [f"{round(float(target[k]), 2):g} " for k in best]
    words = (share.removeprefix("1 ") + names[k] for share, k in zip(shares, best, strict=True))
    return " + ".join(words) or NO_CLASS


def describe_frames(frames: np.ndarray) -> str:
    """Which part of its video a clip with the frame indices `[T]` is of."""
    return f"frames {frames.min()} to {frames.max()}"


def clip_rate(examples: Sequence[Example], spec: ClipSpec) -> float:
    """Frames a second at which clips of these videos last as long as in life; the median of them.

    Raises:
        InputError: a video cannot be read.
    """
    return float(np.median([_clip_rate(example, spec) for example in examples]))


def _clip_rate(example: Example, spec: ClipSpec) -> float:
    if spec.sampling == "dense":
        return (spec.fps or _video_rate(example)) / spec.frame_interval
    rate = _video_rate(example)
    with open_video(example.video, example.name) as video:
        return rate * spec.num_frames / video.num_frames


def _video_rate(example: Example) -> float:
    video = example.video
    if isinstance(video, EncodedFrames) and video.times is not None and len(video.times) > 1:
        return float((len(video.times) - 1) / video.times[-1])
    if isinstance(video, FrameFolder | EncodedFrames):
        return _FRAMES_RATE
    with av.open(io.BytesIO(video) if isinstance(video, bytes) else f"file:{video}") as container:
        return float(container.streams.video[0].average_rate or _FRAMES_RATE)
