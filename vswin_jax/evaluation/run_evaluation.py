"""Evaluation of a config's model: quick scores while it trains, the final score, and a report."""

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vswin_jax import factory
from vswin_jax.data.clips.clip_spec import ClipSpec
from vswin_jax.data.example import Source
from vswin_jax.data.pipeline.lazy_import import load_pipeline
from vswin_jax.evaluation import report
from vswin_jax.evaluation.evaluate import evaluate
from vswin_jax.evaluation.results import AnyEvaluation
from vswin_jax.models import SwinTransformer3D
from vswin_jax.runtime.console import print_once
from vswin_jax.runtime.file_lock import exclusive_lock
from vswin_jax.sharding.mesh import (
    default_rules,
    mesh_from_config,
    num_batch_shards,
    place_batch,
    tree_shardings,
)
from vswin_jax.training.steps import make_eval_step
from vswin_jax.training.task import task_from_config

LOCK_FILE = "evaluation.lock"


class Evaluator:
    """Evaluates parameters on all held-out videos, with few views or with all test views."""

    def __init__(
        self, config: ConfigDict, model: SwinTransformer3D, mesh: Mesh, source: Source
    ) -> None:
        self._make = functools.partial(_make_evaluation, config, model, mesh, source)
        self._spec = factory.clip_spec(config)
        # During training only one centred clip per video is evaluated, as in the reference.
        self._quick_spec = replace(
            self._spec, num_clips=1, num_crops=1, eval_resize=config.data.resize
        )
        self._evaluate_quick = self._make(self._quick_spec)
        self._latest: AnyEvaluation | None = None

    def evaluate_quick(self, params: Any) -> Mapping[str, float]:
        """Return the scores of one centred clip a video."""
        self._latest = self._evaluate_quick(params)
        return self._latest.summary()

    def evaluate_final(self, params: Any) -> AnyEvaluation:
        """Evaluate all test views; `params` must be those of the last `evaluate_quick`, if any."""
        if self._latest is not None and self._quick_spec == self._spec:
            return self._latest
        return self._make(self._spec)(params)


def _make_evaluation(
    config: ConfigDict, model: SwinTransformer3D, mesh: Mesh, source: Source, spec: ClipSpec
) -> Callable[[Any], AnyEvaluation]:
    """Return a function from parameters to the evaluation of all of `source`; it compiles once."""
    task = task_from_config(config)
    step = make_eval_step(model, config.eval.views_per_pass, task, mesh, config.train.autotune)
    # Padding keeps results exact, so the batch size may be rounded up to divide over the devices.
    devices = num_batch_shards(mesh)
    batch_size = math.ceil(config.eval.batch_size / devices) * devices
    pipeline = load_pipeline()
    reading = factory.reading_options(config, mesh)

    def evaluate_params(params: Any) -> AnyEvaluation:
        batches = pipeline.eval_batches(source, spec, batch_size=batch_size, **reading)
        place = functools.partial(place_batch, mesh=mesh, window_over=config.mesh.window_over)
        return evaluate(step, params, batches, num_examples=len(source), place=place)

    return evaluate_params


def evaluate_checkpoint(config: ConfigDict, workdir: Path) -> AnyEvaluation:
    """Evaluate the workdir's checkpoint, or else the weights of init_from, and write the report.

    Raises:
      InputError: neither exists, or its parameters are those of another model.
    """
    weights = factory.weights_to_evaluate(config, workdir)
    held_out = factory.open_split(config, workdir, "eval", weights.label_names)
    model = factory.build_model(config, len(held_out.label_names))
    mesh = mesh_from_config(config)
    model = factory.split_over(mesh, config, model)
    params = weights.load(model)
    params = jax.device_put(params, tree_shardings(params, mesh, default_rules(mesh, params)))
    spec = factory.clip_spec(config)
    evaluation = _make_evaluation(config, model, mesh, held_out, spec)(params)
    write_report(config, workdir, evaluation, held_out, weights.step)
    return evaluation


def write_report(
    config: ConfigDict,
    workdir: Path,
    evaluation: AnyEvaluation,
    source: Source,
    step: int | None,
) -> None:
    """Write `workdir`/evaluation and the curves of training, and print the scores in one line.

    A checkpoint may be evaluated while its run trains, so another process that writes these files
    is waited for.
    """
    if jax.process_index() != 0:
        return
    spec = factory.clip_spec(config)
    directory = workdir / "evaluation"
    activity = f"writing the evaluation of '{workdir}'"
    with exclusive_lock(workdir / LOCK_FILE, activity, wait_seconds=math.inf):
        report.draw_predictions(directory / "predictions.png", evaluation, source, spec)
        if (workdir / "metrics.jsonl").exists():
            report.draw_training(workdir, task_from_config(config).metric_titles)
        evaluation.save(
            directory,
            [source[index].name for index in range(len(source))],
            source.label_names,
            {"step": step, "views": f"{spec.num_clips}x{spec.num_crops}", "config": config.name},
        )
    print_once(f"{report.describe(config.name, evaluation, spec)}; see {directory}")
