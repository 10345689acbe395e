"""Computes the features of the test views of videos and writes them in shards."""

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from vswin_jax import factory
from vswin_jax.data.clips.clip_spec import ClipSpec
from vswin_jax.data.example import Source
from vswin_jax.data.pipeline.clip_processes import choose_processes
from vswin_jax.errors import InputError, unknown_name
from vswin_jax.evaluation.omitted_videos import video_name
from vswin_jax.inference.feature_files.collected_shards import ShardCollector
from vswin_jax.inference.feature_files.feature_directory import FeatureDirectory, create_directory
from vswin_jax.inference.feature_files.feature_program import (
    POOLED,
    FeatureProgram,
    feature_program,
)
from vswin_jax.inference.feature_files.feature_shard import UnreadVideo
from vswin_jax.inference.feature_files.feature_shard_plan import (
    Piece,
    ShardPlan,
    ShardStream,
    default_videos_per_shard,
)
from vswin_jax.inference.feature_files.npy_names import npy_files
from vswin_jax.inference.feature_files.shard_formats import FORMATS
from vswin_jax.inference.opened_checkpoint import OpenedCheckpoint
from vswin_jax.inference.params_digest import params_digest
from vswin_jax.inference.parquet_library import check_pyarrow
from vswin_jax.inference.video_batches import run_batches
from vswin_jax.inference.views import with_views
from vswin_jax.runtime.output_path import output_directory
from vswin_jax.runtime.progress import Progress
from vswin_jax.sharding.mesh import make_mesh

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExtractedFeatures:
    """The result of one start.

    Attributes:
      directory: the directory with the shards.
      num_videos: the videos whose features this start has written.
      unreadable: the videos that it could not read, with reasons.
      earlier: the shards of this process that an earlier start had written.
      settings: the content of `features.json`.
    """

    directory: Path
    num_videos: int
    unreadable: tuple[UnreadVideo, ...]
    earlier: int
    settings: Mapping[str, Any]


def write_features(
    source: Source,
    opened: OpenedCheckpoint,
    out: str | os.PathLike[str],
    *,
    layer: str = POOLED,
    dtype: str = "float32",
    format: str = "npz",
    views: tuple[int, int] | None = None,
    share: str | None = None,
    videos_per_shard: int | None = None,
    batch_size: int | None = None,
    processes: int = -1,
    report: Callable[[str], None] = log.info,
) -> ExtractedFeatures:
    """Write the features of the test views of all videos of `source` to the directory `out`.

    The options are those of `features`; `report` gets lines about the progress.
    """
    directory = output_directory(out, "out")
    _check_format(format)
    piece = choose_piece(share)
    spec = with_views(factory.clip_spec(opened.config), views)
    mesh = make_mesh(devices=jax.local_devices())
    program = feature_program(opened, spec, layer, dtype, mesh)
    plan = _plan(source, program, videos_per_shard)
    settings = {
        **model_settings(opened, program, spec, layer),
        **_data_settings(source, plan),
        "format": format,
    }
    files = create_directory(directory, settings)
    with files.writing(piece):
        return _Extraction(program, spec, mesh, source, files, piece).run(
            batch_size=program.batch_size(batch_size, mesh.size),
            processes=choose_processes(processes),
            report=report,
        )


@dataclass(frozen=True)
class _Extraction:
    """The work of one process."""

    program: FeatureProgram
    spec: ClipSpec
    mesh: Mesh
    source: Source
    files: FeatureDirectory
    piece: Piece

    def run(
        self, *, batch_size: int, processes: int, report: Callable[[str], None]
    ) -> ExtractedFeatures:
        """Write the shards of this process that are missing."""
        own = self.files.plan.shards_of(self.piece)
        missing = [shard for shard in own if not self.files.is_complete(shard)]
        stream = ShardStream(self.source, self.files.plan, missing, batch_size)
        progress = Progress(sum(len(self.files.plan.videos(shard)) for shard in missing), report)
        read, unreadable = 0, []
        for written in self._write_shards(stream, batch_size, processes, progress):
            read += written[0]
            unreadable += written[1]
        return ExtractedFeatures(
            directory=self.files.path,
            num_videos=read,
            unreadable=tuple(unreadable),
            earlier=len(own) - len(missing),
            settings=self.files.settings,
        )

    def _write_shards(
        self, stream: ShardStream, batch_size: int, processes: int, progress: Progress
    ) -> Iterator[tuple[int, tuple[UnreadVideo, ...]]]:
        """Write each shard, and yield the number of its videos and the unreadable ones."""
        if not len(stream):
            return
        program = self.program
        batches = run_batches(
            program.step,
            program.params,
            stream,
            self.spec,
            batch_size=batch_size,
            mesh=self.mesh,
            processes=processes,
        )
        names = self._npy_files()
        empty = np.zeros((0, *program.shape), program.dtype)
        for shard, content in ShardCollector(stream, empty, names).collect(batches, progress.add):
            self.files.write(shard, content, self.piece)
            yield len(content.names), content.unreadable

    def _npy_files(self) -> tuple[str, ...]:
        if self.files.settings["format"] != "npy":
            return ()
        return npy_files([video_name(self.source, index) for index in range(len(self.source))])


def _check_format(name: str) -> None:
    if name not in FORMATS:
        raise unknown_name("format of features", name, FORMATS, "format")
    if name == "parquet":
        check_pyarrow()


def choose_piece(share: str | None) -> Piece:
    """Return the share of this process: the one that is given, or that among its peers.

    Raises:
      InputError: it is none, or is given to a process that has joined others.
    """
    if share is None:
        return Piece(jax.process_index() + 1, jax.process_count())
    if jax.process_count() > 1:
        raise InputError(
            f"Expected no share of a process that has joined others but {share!r} came: each "
            f"takes its own share, so leave it out."
        )
    return Piece.parse(share)


def _plan(source: Source, program: FeatureProgram, videos_per_shard: int | None) -> ShardPlan:
    if not len(source):
        raise InputError("There are no videos to compute the features of.")
    if videos_per_shard is not None and videos_per_shard < 1:
        raise InputError(f"Expected 1 or more videos a shard but {videos_per_shard} came.")
    default = default_videos_per_shard(program.video_bytes)
    return ShardPlan(len(source), videos_per_shard or default)


def model_settings(
    opened: OpenedCheckpoint, program: FeatureProgram, spec: ClipSpec, layer: str
) -> dict[str, Any]:
    """Return the settings of the features that depend on the model and the clips."""
    clips, crops = spec.num_clips, spec.num_crops
    return {
        "checkpoint": opened.source,
        "step": opened.step,
        "weights": params_digest(program.params),
        "model": opened.config.model.name,
        "compute_dtype": opened.config.model.dtype,
        "layer": layer,
        "dtype": program.dtype,
        "shape": list(program.shape),
        "views": [{"clip": i, "crop": j} for j in range(crops) for i in range(clips)],
        "clip": {
            name: getattr(spec, name)
            for name in ("num_frames", "frame_interval", "sampling", "fps", "size")
        }
        | {"short_side": spec.eval_short_side, "repeat_first_frame": spec.repeat_first_frame},
    }


def _data_settings(source: Source, plan: ShardPlan) -> dict[str, Any]:
    return {
        "data": source.identity,
        "num_videos": plan.num_videos,
        "videos_per_shard": plan.videos_per_shard,
        "multi_label": source.multi_label,
        "label_names": list(source.label_names),
    }
