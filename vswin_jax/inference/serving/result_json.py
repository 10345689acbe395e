"""The results of a server as JSON."""

from typing import Any

from vswin_jax.inference.predictor import Prediction, Predictor
from vswin_jax.inference.serving.serve_settings import ServeSettings
from vswin_jax.inference.timelines.timeline_files import Timeline, rounded, segment_json
from vswin_jax.runtime.printable import encodable


def prediction_json(prediction: Prediction) -> dict[str, Any]:
    """Return the name of the video and its classes, the most probable one first."""
    return {
        "video": prediction.video,
        "classes": [encodable(label) for label in prediction.labels],
        "probabilities": [rounded(share) for share in prediction.probabilities],
    }


def timeline_json(timeline: Timeline, topk: int) -> dict[str, Any]:
    """Return the segments of all classes, and the windows with `topk` classes, in seconds."""
    chosen = timeline.main_classes(topk)
    rows = timeline.probabilities[:, chosen]
    return {
        "video": timeline.video,
        "duration": rounded(timeline.duration),
        "end": rounded(timeline.end),
        "error": timeline.failure or None,
        "segments": [*map(segment_json, timeline.segments)],
        "classes": [encodable(timeline.label_names[k]) for k in chosen],
        "windows": [
            {
                "start": rounded(start),
                "end": rounded(end),
                "probabilities": [rounded(share) for share in row],
            }
            for start, end, row in zip(timeline.starts, timeline.ends, rows, strict=True)
        ],
    }


def model_json(predictor: Predictor, settings: ServeSettings) -> dict[str, Any]:
    """Return a description of the model and of the limits of a request."""
    model, spec = predictor.model, predictor.spec
    return {
        "model": model.config.model.name,
        "step": model.step,
        "is_trained": model.warning is None,
        "classes": [encodable(name) for name in model.label_names],
        "multi_label": bool(model.config.data.get("multi_label", False)),
        "frames": spec.num_frames,
        "size": spec.size,
        "views": f"{spec.num_clips}x{spec.num_crops}",
        "sampling": spec.sampling,
        "topk": predictor.topk,
        "max_bytes": settings.max_bytes,
        "timeout": settings.timeout,
        "max_windows": settings.max_windows,
    }
