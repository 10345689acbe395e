"""The description of an export, which a program needs to feed it and to read its answers."""

from typing import Any

import jax

from vswin_jax import __version__
from vswin_jax.data.clips.clip_spec import ClipSpec
from vswin_jax.inference.exports.comparison import TOLERANCE, Comparison
from vswin_jax.inference.exports.export_format import ExportFormat
from vswin_jax.inference.trained_model import TrainedModel
from vswin_jax.training.task import SINGLE_LABEL

_CROPS = {
    1: "the centre",
    3: "three along the longer side: start, end, middle",
    5: "three along the longer side, the whole frame resized to a square, the centre",
}


def describe_export(
    loaded: TrainedModel, export_format: ExportFormat, comparison: Comparison
) -> dict[str, Any]:
    """Return the description as it is written to JSON."""
    size = loaded.spec.size
    return {
        "format": export_format.name,
        "usage": export_format.usage,
        "input": {
            "name": "clips",
            "dtype": "uint8",
            "shape": ["batch", loaded.spec.num_frames, size, size, 3],
            "axes": "batch, time, height, width, RGB",
            "values": "0 to 255; the program normalises them",
        },
        "output": {
            "name": "probabilities",
            "dtype": "float32",
            "shape": ["batch", len(loaded.label_names)],
            "values": _values(loaded),
        },
        "label_names": list(loaded.label_names),
        "preprocessing": describe_preprocessing(loaded.spec),
        "compute_dtype": loaded.model.dtype.name,
        "layers": dict(export_format.layers),
        "compared": describe_comparison(comparison),
        "checkpoint": {"source": loaded.source, "step": loaded.step, "note": loaded.note},
        "made_by": {"vswin_jax": __version__, "jax": jax.__version__},
    }


def _values(loaded: TrainedModel) -> str:
    if loaded.task is SINGLE_LABEL:
        return "softmax: they sum to 1"
    return "sigmoid: each class is independent of the others"


def describe_preprocessing(spec: ClipSpec) -> dict[str, Any]:
    """Return the steps from a video to its clips, and from their answers to that of the video."""
    return {
        "frames": _describe_frames(spec),
        "num_frames": spec.num_frames,
        "sampling": spec.sampling,
        "frame_interval": spec.frame_interval,
        "frames_per_second": spec.fps or "the video's own",
        "repeat_first_frame": spec.repeat_first_frame,
        "short_side": spec.eval_short_side,
        "resize": "bilinear without antialiasing (OpenCV's INTER_LINEAR), the shape is kept",
        "crop": spec.size,
        "crops": _CROPS[spec.num_crops],
        "num_clips": spec.num_clips,
        "num_crops": spec.num_crops,
        "num_views": spec.views,
        "video": "the mean of the probabilities of its views",
    }


def _describe_frames(spec: ClipSpec) -> str:
    if spec.sampling == "uniform":
        return (
            f"the middle frame of each of {spec.num_frames} equal segments of the video's N frames"
        )
    span = spec.num_frames * spec.frame_interval
    return (
        f"{spec.num_frames} frames at a distance of {spec.frame_interval}, from frame "
        f"floor((c + 1/2) * (N - {span - 1}) / {spec.num_clips}) for clip c of a video of N "
        f"frames; from frame 0 if N < {span}, and then modulo N"
    )


def describe_comparison(comparison: Comparison) -> dict[str, Any]:
    """Return the comparison with the model as it is written to JSON."""
    return {
        "clips": f"{comparison.num_clips}: {comparison.clips}",
        "largest_difference": comparison.difference,
        "tolerance": TOLERANCE,
        "clips_per_second": round(comparison.export_rate, 3),
        "model_clips_per_second": round(comparison.model_rate, 3),
        "device": jax.devices()[0].device_kind,
    }
