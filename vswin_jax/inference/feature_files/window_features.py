"""Features of windows at a stride in seconds over long videos, a `.npy` file a video."""

import dataclasses
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from numpy.lib.format import open_memmap

from vswin_jax import factory
from vswin_jax.data.clips.clip_spec import ClipSpec
from vswin_jax.data.clips.window_plan import WindowPlan, check_windows
from vswin_jax.data.example import Example, Source
from vswin_jax.data.pipeline.frame_cursor import LongVideo
from vswin_jax.errors import InputError
from vswin_jax.evaluation.omitted_videos import video_name
from vswin_jax.inference.feature_files.extraction import (
    ExtractedFeatures,
    choose_piece,
    model_settings,
)
from vswin_jax.inference.feature_files.feature_directory import FeatureDirectory, create_directory
from vswin_jax.inference.feature_files.feature_program import FeatureProgram, feature_program
from vswin_jax.inference.feature_files.feature_shard import UnreadVideo
from vswin_jax.inference.feature_files.npy_names import npy_files
from vswin_jax.inference.opened_checkpoint import OpenedCheckpoint
from vswin_jax.inference.timelines.frame_stream import FrameStream, decoder_threads
from vswin_jax.inference.timelines.window_scores import read_windows, window_batches
from vswin_jax.inference.video_batches import run_each
from vswin_jax.inference.views import with_views
from vswin_jax.runtime.atomic_write import atomic_write, write_json
from vswin_jax.runtime.output_path import output_directory
from vswin_jax.runtime.progress import Progress
from vswin_jax.sharding.mesh import make_mesh


@dataclasses.dataclass(frozen=True)
class WindowOptions:
    """The places of windows.

    Attributes:
      stride: seconds from the start of a window to that of the next one.
      window: seconds of a window, for a model with uniform sampling alone.
      frame_rate: frames a second of folders of frames.
    """

    stride: float
    window: float | None = None
    frame_rate: float | None = None


def write_window_features(
    source: Source,
    opened: OpenedCheckpoint,
    out: str | os.PathLike[str],
    windows: WindowOptions,
    *,
    layer: str,
    dtype: str,
    share: str | None,
    batch_size: int | None,
    report: Callable[[str], None],
) -> ExtractedFeatures:
    """Write NAME.npy `[W, ...]` for each video, with NAME.windows.json: times and label.

    The centre crop of each window is taken. A second start goes on with the videos whose files are
    missing.

    Raises:
      InputError: a wrong option, or a directory with other features.
    """
    directory = output_directory(out, "out")
    piece = choose_piece(share)
    spec = with_views(factory.clip_spec(opened.config), (1, 1))
    check_windows(spec, windows.stride, windows.window)
    mesh = make_mesh(devices=jax.local_devices())
    program = feature_program(opened, spec, layer, dtype, mesh)
    settings = {
        **model_settings(opened, program, spec, layer),
        **dataclasses.asdict(windows),
        "data": source.identity,
        "num_videos": len(source),
        "videos_per_shard": 1,
        "label_names": [*source.label_names],
        "format": "npy",
    }
    files = create_directory(directory, settings)
    rows = program.batch_size(batch_size, mesh.size)
    # Once, and not for each video.
    params = jax.device_put(program.params, NamedSharding(mesh, PartitionSpec()))
    program = dataclasses.replace(program, params=params)
    with files.writing(piece):
        videos = files.plan.shards_of(piece)
        return _WindowExtraction(program, spec, mesh, source, files, windows, rows).run(
            videos, report
        )


@dataclasses.dataclass(frozen=True)
class _WindowExtraction:
    """The work of one process."""

    program: FeatureProgram
    spec: ClipSpec
    mesh: Mesh
    source: Source
    files: FeatureDirectory
    windows: WindowOptions
    batch_size: int

    def run(self, videos: list[int], report: Callable[[str], None]) -> ExtractedFeatures:
        """Write the files of the videos that have none."""
        names = npy_files([video_name(self.source, index) for index in range(len(self.source))])
        missing = [index for index in videos if not (self.files.path / names[index]).exists()]
        progress = Progress(len(missing), report)
        unreadable: list[UnreadVideo] = []
        for index in missing:
            try:
                self._write(self.source[index], self.files.path / names[index])
            except InputError as error:
                name = video_name(self.source, index)
                unreadable.append(UnreadVideo(index, name, str(error)))
            progress.add()
        return ExtractedFeatures(
            directory=self.files.path,
            num_videos=len(missing) - len(unreadable),
            unreadable=tuple(unreadable),
            earlier=len(videos) - len(missing),
            settings=self.files.settings,
        )

    def _write(self, example: Example, path: Path) -> None:
        """Write the files of one video.

        Raises:
          InputError: it cannot be read to its end.
        """
        options = {**dataclasses.asdict(self.windows), "threads": decoder_threads()}
        video = LongVideo(example.video, example.name, self.spec, **options)
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(FrameStream(video)) as stream:
            write_json(path.with_suffix(".windows.json"), _describe(example, stream.plan))
            shape = (len(stream.plan.indices), *self.program.shape[1:])
            with atomic_write(path) as partial:
                # Maps of hours need not fit the memory.
                stored = open_memmap(partial, "w+", self.program.dtype, shape)
                position = 0
                for rows in self._features(stream):
                    stored[position : position + len(rows)] = rows
                    position += len(rows)
                if stream.failure:
                    raise InputError(stream.failure)
                stored.flush()

    def _features(self, stream: FrameStream) -> Iterator[np.ndarray]:
        """Yield the features of the windows, a batch at a time."""
        batches = window_batches(read_windows(stream), self.spec, self.batch_size)
        for rows, (_, is_real) in run_each(
            self.program.step, self.program.params, batches, self.mesh
        ):
            yield rows["features"][is_real, 0]


def _describe(example: Example, plan: WindowPlan) -> dict[str, Any]:
    return {
        "video": example.name,
        "label": [*example.label] if isinstance(example.label, tuple) else example.label,
        "duration": plan.duration,
        "starts": plan.starts.tolist(),
        "ends": plan.ends.tolist(),
    }
