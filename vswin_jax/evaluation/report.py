"""Report of a run: training curves, a picture of predictions and a line of scores."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vswin_jax.data.clips.clip_spec import ClipSpec
from vswin_jax.data.clips.clips import test_views
from vswin_jax.data.example import Source
from vswin_jax.data.sources.labels import classes_of
from vswin_jax.evaluation.results import AnyEvaluation
from vswin_jax.evaluation.scored_settings import describe_views
from vswin_jax.reporting.metric_writer import BAD_HELD_OUT
from vswin_jax.reporting.metrics_file import read_metrics
from vswin_jax.runtime.lazy_module import LazyModule

# Matplotlib takes a while to import.
plots = LazyModule("vswin_jax.reporting.plots")

SHOWN_VIDEOS = 6
SHOWN_CLASSES = 5


def evaluated_step(workdir: str | os.PathLike) -> int | None:
    """Return the step of the complete evaluation in `workdir`/evaluation; None without one."""
    path = Path(workdir) / "evaluation" / "summary.json"
    return json.loads(path.read_text())["step"] if path.exists() else None


def draw_training(workdir: str | os.PathLike, metric_titles: Mapping[str, str]) -> None:
    """Draw the curves of `workdir`/metrics.jsonl to `workdir`/training.png.

    Curves are those of the loss and of the keys of `metric_titles`.
    """
    path = Path(workdir) / "metrics.jsonl"
    series = {
        "training": read_metrics(path, "train"),
        "held out, quick": read_metrics(path, "quick"),
        "held out, final": read_metrics(path, "final"),
    }
    plots.save_curves(
        Path(workdir) / "training.png",
        losses={name: _curve(entries, "loss") for name, entries in series.items() if entries},
        accuracies={
            name if len(metric_titles) == 1 else f"{name}, {title}": _curve(entries, key)
            for key, title in metric_titles.items()
            for name, entries in series.items()
            if entries and key in entries[0]
        },
        title=" and ".join(metric_titles.values()),
    )


def _curve(entries: Sequence[Mapping[str, Any]], name: str) -> "plots.Series":
    return [entry["step"] for entry in entries], [float(entry[name]) for entry in entries]


def draw_predictions(
    path: str | os.PathLike,
    evaluation: AnyEvaluation,
    source: Source,
    spec: ClipSpec,
) -> None:
    """Draw videos spread over a set, with their predicted and their true classes."""
    videos = len(evaluation.labels)
    chosen = np.linspace(0, videos - 1, min(SHOWN_VIDEOS, videos)).round().astype(int).tolist()
    plots.save_predictions(path, [_prediction_row(row, evaluation, source, spec) for row in chosen])


def _prediction_row(
    row: int, evaluation: AnyEvaluation, source: Source, spec: ClipSpec
) -> "plots.PredictionRow":
    example = source[int(evaluation.indices[row])]
    probabilities = evaluation.probabilities[row]
    best = np.argsort(-probabilities, kind="stable")[:SHOWN_CLASSES]
    return plots.PredictionRow(
        frames=test_views(example, spec)[spec.middle_view],
        labels=[source.label_names[k] for k in best],
        probabilities=probabilities[best].tolist(),
        name=example.name,
        truth=tuple(source.label_names[k] for k in classes_of(example.label)),
    )


def describe(name: str, kind: str, evaluation: AnyEvaluation, spec: ClipSpec) -> str:
    """Format the scores of the run `name` as one line; `kind` is "final", or the difference."""
    views = f"{spec.num_clips}x{spec.num_crops} views ({describe_views(spec)})"
    omitted = len(evaluation.omitted)
    unread = f" ({omitted} unreadable: see {BAD_HELD_OUT} there)" if omitted else ""
    return f"{name or 'run'}, {kind}: {evaluation.describe()}{unread}, {views}"
