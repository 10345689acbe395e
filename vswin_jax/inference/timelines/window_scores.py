"""The probabilities of the windows of a long video, computed in batches on all devices."""

import itertools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jaxtyping import Float32, UInt8

from vswin_jax.data.clips import transforms
from vswin_jax.data.clips.clip_spec import ClipSpec
from vswin_jax.inference.opened_checkpoint import OpenedCheckpoint
from vswin_jax.inference.timelines.frame_stream import FrameStream
from vswin_jax.inference.trained_model import TrainedModel
from vswin_jax.inference.video_batches import divisible_batch_size, run_each
from vswin_jax.inference.views import with_views
from vswin_jax.sharding.mesh import make_mesh
from vswin_jax.training.steps import make_eval_step

# Windows of a batch on each device: their frames are in memory.
_BATCH_SIZE = 8
# A CPU gains nothing from larger batches, and each result would come later.
_CPU_BATCH_BYTES = 4 << 20


class WindowScorer:
    """A model that is compiled once for the windows of any number of videos.

    Attributes:
      model: the `TrainedModel`.
      spec: the sampling of a window, with the crops of the run's evaluation.
      batch_size: windows of a batch.
    """

    def __init__(
        self,
        opened: OpenedCheckpoint,
        *,
        crops: int | None = None,
        batch_size: int | None = None,
    ) -> None:
        """Load the parameters.

        Args:
          opened: the checkpoint.
          crops: along the longer side, 1, 3 or 5; by default those of the run's evaluation.
          batch_size: windows of a batch, rounded up to a multiple of the devices.

        Raises:
          InputError: impossible crops, or a checkpoint of another model.
        """
        self.model = TrainedModel(opened)
        spec = self.model.spec
        self.spec = with_views(spec, (1, spec.num_crops if crops is None else crops))
        self._mesh = make_mesh(devices=jax.local_devices())
        devices = self._mesh.size
        requested = batch_size or _default_batch_size(self.spec) * devices
        self.batch_size = divisible_batch_size(requested, devices)
        config = self.model.config
        self._step = make_eval_step(
            self.model.model,
            config.eval.views_per_pass,
            self.model.task,
            self._mesh,
            config.train.autotune,
        )

    def score(self, stream: FrameStream, first: int = 0) -> Iterator[Float32[np.ndarray, "B K"]]:
        """Yield the probabilities of the windows from `first` on, a batch at a time.

        They end early where the video is damaged; see `FrameStream.failure`.
        """
        size = self.batch_size
        labels = self.model.task.blank_labels(size, len(self.model.label_names))
        unused = {"label": labels, "flip": np.zeros(size, bool)}
        batches = (
            {**batch, **unused}
            for batch in window_batches(read_windows(stream, first), self.spec, size)
        )
        for rows, (_, is_real) in run_each(self._step, self.model.params, batches, self._mesh):
            yield rows["probabilities"][is_real]

    def score_clip(self, views: UInt8[np.ndarray, "V T size size 3"]) -> Float32[np.ndarray, " K"]:
        """Return the probabilities of one window."""
        return np.asarray(self.model.probabilities(views)).mean(axis=0)


def window_batches(
    windows: Iterator[UInt8[np.ndarray, "V T size size 3"]], spec: ClipSpec, rows: int
) -> Iterator[dict[str, Any]]:
    """Yield batches of one size, with video `[rows, V, T, size, size, 3]`, id and mask `[rows]`.

    The rows after the last window are empty.
    """
    shape = (rows, spec.views, spec.num_frames, spec.size, spec.size, 3)
    order = np.arange(rows)
    while True:
        video, count = np.zeros(shape, np.uint8), 0
        for window in itertools.islice(windows, rows):
            video[count] = window
            count += 1
        if not count:
            return
        yield {"video": video, "id": order, "mask": (order < count).astype(np.float32)}


def _default_batch_size(spec: ClipSpec) -> int:
    """Return the number of windows of a batch on one device."""
    if jax.default_backend() != "cpu":
        return _BATCH_SIZE
    window_bytes = spec.views * spec.num_frames * spec.size**2 * 3
    return min(_BATCH_SIZE, max(1, _CPU_BATCH_BYTES // window_bytes))


def read_windows(
    stream: FrameStream, first: int = 0
) -> Iterator[UInt8[np.ndarray, "V T size size 3"]]:
    """Yield the views of each window from `first` on; a frame stays in memory while needed."""
    plan, spec = stream.plan, stream.source.spec
    needed, places = np.unique(plan.indices, return_inverse=True)
    places = places.reshape(plan.indices.shape)[first:]
    if not len(places):
        return
    position = int(places[0].min())
    chunks = stream.chunks(position, len(needed))
    frames: dict[int, np.ndarray] = {}
    for place in places:
        first_needed, last_needed = int(place.min()), int(place.max())
        for earlier in [key for key in frames if key < first_needed]:
            del frames[earlier]
        while position <= last_needed:
            chunk = next(chunks, None)
            if chunk is None:
                return
            # The memory of a chunk is used again.
            frames |= {position + k: frame.copy() for k, frame in enumerate(chunk)}
            position += len(chunk)
        yield crop_window([frames[key] for key in place.tolist()], spec)


def crop_window(
    frames: list[UInt8[np.ndarray, "height width 3"]], spec: ClipSpec
) -> UInt8[np.ndarray, "V T size size 3"]:
    """Return the crops of a window's frames, whose short side is that of the evaluation."""
    return np.stack(transforms.eval_crops(np.stack(frames), spec.num_crops, spec.size))
