"""What a run leaves for people to look at: its curves, its predictions and one line of scores."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vswin_jax.data.clips.clips import ClipSpec, test_views
from vswin_jax.data.example import Source
from vswin_jax.data.sources.labels import classes_of
from vswin_jax.evaluation.results import AnyEvaluation
from vswin_jax.reporting import plots
from vswin_jax.reporting.metric_writer import read_metrics

SHOWN_VIDEOS = 6


def scored_step(workdir: str | os.PathLike) -> int | None:
    """The step whose evaluation is complete in `workdir`/evaluation; None where there is none."""
    path = Path(workdir) / "evaluation" / "summary.json"
    return json.loads(path.read_text())["step"] if path.exists() else None


def draw_training(workdir: str | os.PathLike, measures: Mapping[str, str]) -> None:
    """Draws `workdir`/training.png, the curves in its metrics.jsonl.

    `measures` are those beside the loss, by their keys there, with their names for people.
    """
    path = Path(workdir) / "metrics.jsonl"
    series = {"training": read_metrics(path, "train"), "held out": read_metrics(path, "eval")}
    plots.save_curves(
        Path(workdir) / "training.png",
        {name: _curve(entries, "loss") for name, entries in series.items() if entries},
        {
            name if len(measures) == 1 else f"{name}, {title}": _curve(entries, key)
            for key, title in measures.items()
            for name, entries in series.items()
            if entries and key in entries[0]
        },
        " and ".join(measures.values()),
    )


def _curve(entries: Sequence[Mapping[str, Any]], name: str) -> plots.Series:
    return [entry["step"] for entry in entries], [float(entry[name]) for entry in entries]


def draw_predictions(
    path: str | os.PathLike,
    evaluation: AnyEvaluation,
    source: Source,
    spec: ClipSpec,
) -> None:
    """Draws some of a set's videos, spread over it, with what was predicted and what is right."""
    count = min(SHOWN_VIDEOS, len(source))
    chosen = np.linspace(0, len(source) - 1, count).round().astype(int).tolist()
    strips = [_strip(index, evaluation, source, spec) for index in chosen]
    plots.save_predictions(path, strips)


def _strip(index: int, evaluation: AnyEvaluation, source: Source, spec: ClipSpec) -> plots.Strip:
    example = source[index]
    probabilities = evaluation.probabilities[index]
    best = np.argsort(-probabilities, kind="stable")[:5]
    return plots.Strip(
        frames=test_views(example, spec)[shown_view(spec)],
        labels=[source.label_names[k] for k in best],
        probabilities=probabilities[best].tolist(),
        name=example.name,
        truth=tuple(source.label_names[k] for k in classes_of(example.label)),
    )


def shown_view(spec: ClipSpec) -> int:
    """The index of the view that shows a video best: the middle crop of the middle clip."""
    crop = 2 if spec.crops > 1 else 0
    return crop * spec.clips + spec.clips // 2


def describe(name: str, evaluation: AnyEvaluation, spec: ClipSpec) -> str:
    """The scores in one line."""
    return f"{name or 'run'}: {evaluation.describe()}, {spec.clips}x{spec.crops} views"
