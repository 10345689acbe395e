"""The features of videos under a checkpoint's model, written to files."""

import logging
import os
from collections.abc import Callable
from typing import Any

from vswin_jax.data.example import Source as VideoSource
from vswin_jax.errors import InputError
from vswin_jax.inference.feature_files.extraction import ExtractedFeatures, write_features
from vswin_jax.inference.feature_files.feature_program import POOLED
from vswin_jax.inference.feature_files.window_features import (
    WindowOptions,
    write_window_features,
)
from vswin_jax.inference.opened_checkpoint import Source, open_checkpoint
from vswin_jax.inference.predictor import Videos
from vswin_jax.inference.video_lists import VideoList, open_videos

log = logging.getLogger(__name__)


def features(
    videos: Videos,
    checkpoint: Source,
    out: str | os.PathLike[str],
    *,
    layer: str = POOLED,
    dtype: str = "float32",
    format: str = "npz",
    views: tuple[int, int] | None = None,
    root: str | os.PathLike[str] = "",
    kind: str = "auto",
    share: str | None = None,
    videos_per_shard: int | None = None,
    windows: WindowOptions | None = None,
    batch_size: int | None = None,
    processes: int = -1,
    which: str = "latest",
    labels: Source | None = None,
    report: Callable[[str], None] = log.info,
) -> ExtractedFeatures:
    """Write the features of videos under a checkpoint's model to files; `load_features` reads them.

    A second call with the same arguments goes on with the shards that are missing.

    Args:
      videos: one path or several: of video files, of folders of frames, of folders with either at
        any depth; or one list or data set that training reads.
      checkpoint: as for `load`; weights without a classifier will do.
      out: the directory to write to.
      layer: "pooled" (the input of the classifier, [C] a view), or one of `TrainedModel.features`.
      dtype: "float32" or "float16".
      format: "npz", "parquet", or "npy" for a file a video.
      views: (clips along time, crops along the longer side); by default as the run was evaluated.
      root: the folder to which paths in a list are relative.
      kind: the list's format, "folder" for a folder of classes.
      share: "2/4" for the second of four shares; processes that have joined each take their own.
      videos_per_shard: by default as many as have features of 256 MB, at most 1000.
      windows: take windows at a stride over the whole video, not test views; of format "npy".
      batch_size: videos of a batch.
      processes: that decode; -1 is one for each usable CPU, 0 uses threads.
      which: as for `load`.
      labels: as for `load`.
      report: gets lines about the progress.

    Raises:
      InputError: no such videos or checkpoint, a wrong option, a directory with other features.
    """
    source = _open_all(videos, root, kind)
    opened = open_checkpoint(checkpoint, which, labels, needs_classifier=False)
    common: Any = {"layer": layer, "dtype": dtype, "share": share, "batch_size": batch_size}
    if windows is not None:
        _check_windows_alone(format, views, videos_per_shard)
        return write_window_features(source, opened, out, windows, **common, report=report)
    common |= {"format": format, "views": views, "videos_per_shard": videos_per_shard}
    return write_features(source, opened, out, **common, processes=processes, report=report)


def _check_windows_alone(
    format: str, views: tuple[int, int] | None, videos_per_shard: int | None
) -> None:
    if format != "npy" or views is not None or videos_per_shard is not None:
        raise InputError(
            "Expected windows at a stride as a file a video (format npy, --per-video), without "
            "views and without videos a shard: leave them out."
        )


def _open_all(videos: Videos, root: str | os.PathLike[str], kind: str) -> VideoSource:
    """Open the videos; a path without any is an error, before hours of work on the others."""
    source = open_videos(videos, root=root, kind=kind)
    if isinstance(source, VideoList) and source.missing:
        raise InputError(source.missing[0].reason)
    return source
