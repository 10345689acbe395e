"""Clips as the model receives them, after the preprocessing and augmentation on the device.

A batch is prepared by the same functions that the training step and the evaluation step call.
"""

import functools
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from vswin_jax.data.clips.clip_spec import ClipSpec
from vswin_jax.data.decoding.container import open_container
from vswin_jax.data.decoding.decode import open_video
from vswin_jax.data.decoding.frames import EncodedFrames, FrameFolder
from vswin_jax.data.decoding.video_stream import video_stream
from vswin_jax.data.example import Example, Source
from vswin_jax.data.sources.labels import NO_CLASS, describe_label
from vswin_jax.reporting.contact_sheet import ShownClip, draw_sheet, save_sheet
from vswin_jax.training.batch_registry import build_batch_augmentations
from vswin_jax.training.step_inputs import Batch, prepare_inputs, preprocess, step_keys, to_pixels
from vswin_jax.training.task import task_from_config

COUNT = 8
_MIN_SHARE = 0.005  # of a label; a smaller one would be rounded to 0
_FRAME_FOLDER_RATE = 30.0  # frames a second of a folder of frames, which has no rate of its own


def training_clips(
    batch: Batch,
    step: int,
    *,
    config: ConfigDict,
    source: Source,
    count: int = COUNT,
    mesh: Mesh | None = None,
) -> list[ShownClip]:
    """Return the first `count` clips of the batch that is trained on after `step` steps.

    The whole batch is prepared, because mixing blends neighbouring clips. With a `mesh`, the batch
    must be placed on it and every process must call this function.
    """
    replicated = NamedSharding(mesh, PartitionSpec()) if mesh else None
    names = source.label_names
    first_rows = functools.partial(_first_rows, config=config, num_classes=len(names), count=count)
    shown = jax.device_get(jax.jit(first_rows, out_shardings=replicated)(step, dict(batch)))
    return [
        ShownClip(
            frames=shown["clips"][row],
            label=describe_target(shown["targets"][row], names),
            name=source[int(shown["id"][row])].name,
            position=describe_frames(shown["frames"][row]) if "frames" in shown else "",
        )
        for row in np.flatnonzero(shown["mask"])
    ]


def _first_rows(
    step: jax.Array, batch: Batch, *, config: ConfigDict, num_classes: int, count: int
) -> dict[str, jax.Array]:
    """Prepare a batch as the training step does and return its first `count` rows, for display."""
    augment_key, _ = step_keys(config.seed, step)
    inputs = prepare_inputs(
        augment_key,
        batch,
        num_classes=num_classes,
        # Smoothing changes no pixel and would blur the shares of mixed labels.
        label_smoothing=0.0,
        mixup_alpha=config.loss.mixup_alpha,
        cutmix_alpha=config.loss.cutmix_alpha,
        random_erasing_rate=config.loss.random_erasing,
        batch_augmentations=build_batch_augmentations(config.data.batch_augmentations),
        task=task_from_config(config),
    )
    shown = {"clips": to_pixels(inputs.clips[:count]), "targets": inputs.targets[:count]}
    others = {"id", "mask", "frames"} & batch.keys()
    return shown | {name: batch[name][:count] for name in others}


def evaluation_clips(batch: Batch, *, source: Source, count: int = COUNT) -> list[ShownClip]:
    """Return the first `count` views of an evaluation batch, video by video."""
    views = batch["video"].shape[1]
    shown: list[ShownClip] = []
    rows = zip(*(batch[name] for name in ("video", "flip", "id", "mask")), strict=True)
    for video, flip, example_id, mask in rows:
        if not mask or len(shown) >= count:
            break
        clips = to_pixels(preprocess(jnp.asarray(video), jnp.full(views, flip)))
        example = source[int(example_id)]
        label = describe_label(example.label, source.label_names)
        shown += [
            ShownClip(frames=clip, label=f"{label} (view {view} of {views})", name=example.name)
            for view, clip in enumerate(np.asarray(clips), 1)
        ]
    return shown[:count]


def draw_first_batch(
    batch: Batch, *, config: ConfigDict, source: Source, workdir: Path, mesh: Mesh
) -> np.ndarray:
    """Draw the first batch of a run, uint8 [H, W, 3], and save it as `workdir`/clips.png."""
    clips = training_clips(batch, 0, config=config, source=source, mesh=mesh)
    sheet = draw_sheet(clips, describe_batch(config, "train", 0, clips))
    if jax.process_index() == 0:
        save_sheet(workdir / "clips.png", sheet)
    return sheet


def describe_batch(config: ConfigDict, split: str, step: int, clips: Sequence[ShownClip]) -> str:
    """Return the title of a contact sheet."""
    length, height, width, _ = clips[0].frames.shape
    size = f"{length} frames of {height}x{width} pixels"
    return f"{config.name or 'run'}: model inputs, {split}, step {step}; clips of {size}"


def describe_target(target: np.ndarray, names: Sequence[str]) -> str:
    """Format a target `[K]` with names: "jump", or "0.7 jump + 0.3 run" of mixed clips.

    Multi-label targets are "jump + run", or "jump + 0.3 run" if one of the mixed clips has both.
    """
    best = [k for k in np.argsort(-target, kind="stable") if target[k] > _MIN_SHARE]
    shares = [f"{round(float(target[k]), 2):g} " for k in best]
    words = (share.removeprefix("1 ") + names[k] for share, k in zip(shares, best, strict=True))
    return " + ".join(words) or NO_CLASS


def describe_frames(frames: np.ndarray) -> str:
    """Format the range of the frame indices `[T]` of a clip."""
    return f"frames {frames.min()} to {frames.max()}"


def playback_rate(examples: Sequence[Example], spec: ClipSpec) -> float:
    """Return the frames a second at which clips play at the speed of their videos (the median).

    Raises:
      InputError: a video cannot be read.
    """
    return float(np.median([_playback_rate(example, spec) for example in examples]))


def _playback_rate(example: Example, spec: ClipSpec) -> float:
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
        return _FRAME_FOLDER_RATE
    with open_container(video, example.name) as container:
        return float(video_stream(container).average_rate or _FRAME_FOLDER_RATE)
