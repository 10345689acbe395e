"""A trained model from Python: a compiled call, the normalisation of its input, a clip reader."""

import functools
import logging
import threading
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, PyTree, UInt8
from ml_collections import ConfigDict

from vswin_jax import factory
from vswin_jax.data.example import Example
from vswin_jax.inference.clip_inputs import checked_clips, normalize
from vswin_jax.inference.clips_ahead import read_views
from vswin_jax.inference.opened_checkpoint import OpenedCheckpoint, Source, open_checkpoint
from vswin_jax.inference.stored_programs import stored_programs
from vswin_jax.inference.video_paths import VideoPath, find_one_video
from vswin_jax.inference.views import with_views
from vswin_jax.models import SwinTransformer3D
from vswin_jax.training.step_inputs import PIXEL_MEAN, PIXEL_STD
from vswin_jax.training.task import Task, task_from_config

log = logging.getLogger(__name__)

Clips = Any  # float or uint8 [B, T, H, W, 3], of NumPy, JAX or anything that NumPy converts


def load(
    checkpoint: Source,
    *,
    which: str = "latest",
    labels: Source | None = None,
    dtype: str | None = None,
) -> "TrainedModel":
    """Load a trained model for use in Python.

    Args:
      checkpoint: a run's directory, one of its checkpoints, a converted directory, a released
        checkpoint's name, a URL, a PyTorch, safetensors or npz file, or a Hugging Face directory.
      which: the checkpoint that a run's directory stands for, "latest" or "best".
      labels: a text file with one class name a line, for weights without names.
      dtype: another compute dtype than the run's, "float32" or "bfloat16".

    Raises:
      InputError: there is no such checkpoint, or it has no classifier of videos.
    """
    opened = open_checkpoint(checkpoint, which, labels)
    log.info("%s: %s", opened.source, opened.note)
    return TrainedModel(opened, dtype)


class TrainedModel:
    """A trained model, called as `model(clips)`; `load` makes one. Threads may share it.

    A batch of clips is `[B, T, H, W, 3]`, RGB, of any T, H and W, in one of two forms: uint8 from 0
    to 255, which is normalised here, or floating-point numbers that `normalize` has normalised. Any
    other array is refused with a sentence. Each size of the batch is compiled once; programs are
    kept for later processes. Within a function of `jax.jit` the methods are part of its program.

    Attributes:
      model: the Flax module, for `model.apply({"params": params}, clips)`.
      params: its parameters, on the device.
      config: the config of the run.
      label_names: the names of the K classes.
      step: the training step; None for weights of another program.
      note: a line on the checkpoint that was taken.
      spec: the sampling and the test views of the run.
      mean: of the pixels, for the normalisation.
      std: the standard deviation of the pixels.
      warning: a sentence if the classifier is not trained, or None.
    """

    mean, std = PIXEL_MEAN, PIXEL_STD
    normalize = staticmethod(normalize)

    def __init__(self, opened: OpenedCheckpoint, dtype: str | None = None) -> None:
        self.source, self.note, self.step = opened.source, opened.note, opened.step
        self.config: ConfigDict = opened.config
        self.label_names = opened.label_names
        self.spec = factory.clip_spec(opened.config)
        self.task: Task = task_from_config(opened.config)
        self.model: SwinTransformer3D = opened.build_model(dtype)
        params = opened.load(self.model)
        self.warning = opened.head_warning(params)
        if self.warning:
            log.warning("warning: %s", self.warning)
        self.params: PyTree = jax.device_put(params)
        self._lock = threading.Lock()
        self._compiled: set[tuple[Any, ...]] = set()
        self._logits = jax.jit(functools.partial(_logits, self.model))
        self._features = jax.jit(functools.partial(_features, self.model))
        self._probabilities = jax.jit(functools.partial(class_probabilities, self.model, self.task))

    def __call__(self, clips: Clips) -> Float32[Array, "B K"]:
        """Return the logits of clips `[B, T, H, W, 3]`: uint8 RGB, or normalised.

        Raises:
          InputError: an array of another shape or dtype, or pixels that are not normalised.
        """
        return self._call(self._logits, clips)

    def probabilities(self, clips: Clips) -> Float32[Array, "B K"]:
        """Return the probability of each class; see `__call__`."""
        return self._call(self._probabilities, clips)

    def features(self, clips: Clips) -> dict[str, Array]:
        """Return every feature map by name, `[B, D, H, W, C]`; see `SwinTransformer3D.features`."""
        return self._call(self._features, clips)

    def read_clip(self, video: VideoPath) -> UInt8[np.ndarray, "1 T size size 3"]:
        """Read the clip in the middle of a video, as a batch of one.

        Raises:
          InputError: there is no such video, or it cannot be read.
        """
        return self.read_views(video, views=(1, 1))

    def read_views(
        self, video: VideoPath, views: tuple[int, int] | None = None
    ) -> UInt8[np.ndarray, "V T size size 3"]:
        """Read the test views of a video file or a folder of frames, as a batch.

        `views` are (clips along time, crops along the longer side), by default those of the run.
        The probabilities of a video are the mean over its views.

        Raises:
          InputError: there is no such video, it cannot be read, or the views are impossible.
        """
        found = find_one_video(video)
        example = Example(found.video, label=0, id=0, name=found.path)
        return read_views(example, with_views(self.spec, views))

    def _call(self, function: Callable[..., Any], clips: Clips) -> Any:
        if isinstance(clips, jax.core.Tracer):
            return function(self.params, checked_clips(clips, check_values=False))
        # Reading the values of an array on a device would wait for the device in every call.
        values = not isinstance(clips, jax.Array)
        clips = checked_clips(clips, check_values=values)
        key = (function, clips.shape, clips.dtype)
        if key in self._compiled:
            return function(self.params, clips)
        if not values:
            checked_clips(clips, check_values=True)
        with self._lock, stored_programs():
            result = function(self.params, clips)
            self._compiled.add(key)
        return result

    def __repr__(self) -> str:
        spec = self.spec
        clip = f"{spec.num_frames}x{spec.size}x{spec.size}"
        return (
            f"{type(self).__name__}({self.source!r}, step={self.step}, "
            f"classes={len(self.label_names)}, clip={clip!r}, dtype={self.model.dtype.name!r})"
        )


def _logits(model: SwinTransformer3D, params: PyTree, clips: jax.Array) -> jax.Array:
    logits = model.apply({"params": params}, normalize(clips), train=False)
    return logits.astype(jnp.float32)


def _features(model: SwinTransformer3D, params: PyTree, clips: jax.Array) -> dict[str, jax.Array]:
    return model.apply({"params": params}, normalize(clips), method="features")


def class_probabilities(
    model: SwinTransformer3D, task: Task, params: PyTree, clips: jax.Array
) -> jax.Array:
    """Return the probability of each class of uint8 or normalised clips, `[B, K]`."""
    scores = task.view_scores(_logits(model, params, clips))
    labels = task.blank_labels(*scores.shape)
    return task.average_views(scores[:, None], labels)["probabilities"]
