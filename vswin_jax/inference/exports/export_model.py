"""Exports a trained model for programs without this package, after a comparison with the model."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax

from vswin_jax.errors import InputError, unknown_name
from vswin_jax.inference.exports.comparison import Comparison, compare
from vswin_jax.inference.exports.comparison_clips import comparison_clips
from vswin_jax.inference.exports.export_description import describe_export
from vswin_jax.inference.exports.export_format import ExportFormat
from vswin_jax.inference.exports.export_output import (
    checked_output,
    complete_output,
    description_path,
    size_of,
)
from vswin_jax.inference.exports.onnx_file import ONNX
from vswin_jax.inference.exports.saved_model import SAVED_MODEL
from vswin_jax.inference.exports.stablehlo_file import STABLEHLO
from vswin_jax.inference.opened_checkpoint import OpenedCheckpoint, Source, open_checkpoint
from vswin_jax.inference.trained_model import TrainedModel
from vswin_jax.inference.video_paths import VideoPath
from vswin_jax.runtime.atomic_write import write_json
from vswin_jax.runtime.progress import WriteLine

FORMATS = {one.name: one for one in (STABLEHLO, SAVED_MODEL, ONNX)}
_DTYPES = ("float32", "bfloat16")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExportedModel:
    """An export that is complete.

    Attributes:
      path: its file or directory.
      description: the JSON file beside it.
      size: its bytes.
      parameter_size: the bytes of the model's parameters in float32.
      comparison: the comparison with the model.
    """

    path: Path
    description: Path
    size: int
    parameter_size: int
    comparison: Comparison


def export(
    checkpoint: Source | OpenedCheckpoint,
    out: str | os.PathLike[str],
    *,
    to: str = "stablehlo",
    clips: VideoPath | Sequence[VideoPath] = (),
    dtype: str | None = None,
    which: str = "latest",
    labels: Source | None = None,
    overwrite: bool = False,
    write_line: WriteLine = log.info,
) -> ExportedModel:
    """Export a trained model, from uint8 clips `[B, T, H, W, 3]` to probabilities `[B, K]`.

    The export is compared with the model, and appears with its description, OUT.json, when the
    probabilities agree to 1e-4.

    Args:
      checkpoint: a run's directory, one of its checkpoints, a converted directory, a released
        checkpoint's name, a URL, a PyTorch, safetensors or npz file, or a Hugging Face directory.
      out: the path of the export, a file, or for "savedmodel" a directory.
      to: "stablehlo", "savedmodel" or "onnx".
      clips: videos to compare on, and folders of them; by default moving shapes are drawn.
      dtype: the compute dtype, "float32" or "bfloat16"; None is the run's, and float32 for "onnx".
      which: the checkpoint that a run's directory stands for, "latest" or "best".
      labels: a text file with one class name a line, for weights without names.
      overwrite: replaces an earlier export.
      write_line: gets lines about the progress.

    Raises:
      InputError: a wrong argument, a library that is missing, or an export that differs from the
        model; then nothing is written.
    """
    export_format = _checked_format(to, dtype)
    path = checked_output(out, export_format, overwrite=overwrite)
    export_format.check()
    videos = [clips] if isinstance(clips, str | os.PathLike) else list(clips)
    is_opened = isinstance(checkpoint, OpenedCheckpoint)
    opened = checkpoint if is_opened else open_checkpoint(checkpoint, which, labels)
    write_line(opened.note)
    loaded = TrainedModel(opened, dtype or export_format.dtype)
    return _write(loaded, path, export_format, videos, write_line)


def _checked_format(to: str, dtype: str | None) -> ExportFormat:
    if to not in FORMATS:
        raise unknown_name("format of exports", to, FORMATS)
    if dtype is not None and dtype not in _DTYPES:
        raise unknown_name("compute dtype", dtype, _DTYPES)
    _check_only_dtype(FORMATS[to], dtype)
    return FORMATS[to]


def _check_only_dtype(export_format: ExportFormat, dtype: str | None) -> None:
    if export_format.dtype and dtype not in (None, export_format.dtype):
        raise InputError(
            f"An export to {export_format.name} computes in {export_format.dtype} but {dtype} "
            f"came: leave the dtype out, or export to stablehlo or savedmodel."
        )


def _write(
    loaded: TrainedModel,
    path: Path,
    export_format: ExportFormat,
    videos: Sequence[VideoPath],
    write_line: WriteLine,
) -> ExportedModel:
    # Before the program is made, which takes longer.
    clips, origin = comparison_clips(videos, loaded.spec)
    with complete_output(path) as partial:
        write_line(f"writing the {export_format.name} export")
        export_format.write(loaded, partial)
        write_line(f"comparing it with the model on {len(clips)} clips ({origin})")
        comparison = compare(loaded, export_format.open(partial), clips, origin, write_line)
        comparison.check()
        description = describe_export(loaded, export_format, comparison)
        write_json(description_path(partial), description)
    return ExportedModel(
        path=path,
        description=description_path(path),
        size=size_of(path),
        parameter_size=sum(leaf.nbytes for leaf in jax.tree.leaves(loaded.params)),
        comparison=comparison,
    )
