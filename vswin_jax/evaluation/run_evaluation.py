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
from vswin_jax.checkpoint import steps_in
from vswin_jax.checkpoint.chosen_step import LATEST
from vswin_jax.config import argument_names, base_config
from vswin_jax.config.renames import load_saved_config
from vswin_jax.data.clips.clip_spec import ClipSpec
from vswin_jax.data.example import Source
from vswin_jax.data.pipeline.pipeline import eval_batches
from vswin_jax.errors import InputError, rename_arguments
from vswin_jax.evaluation import report
from vswin_jax.evaluation.evaluate import Omissions, evaluate
from vswin_jax.evaluation.evaluated_weights import EvaluatedWeights, find_weights
from vswin_jax.evaluation.omitted_videos import check_held_out, video_name, write_omitted
from vswin_jax.evaluation.results import AnyEvaluation
from vswin_jax.evaluation.scored_settings import (
    OWN,
    describe_views,
    directory_name,
    summary_settings,
)
from vswin_jax.models import SwinTransformer3D
from vswin_jax.reporting.metric_writer import write_final
from vswin_jax.runtime.console import log_once, print_once
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
        self,
        config: ConfigDict,
        model: SwinTransformer3D,
        mesh: Mesh,
        source: Source,
        workdir: Path,
    ) -> None:
        self._make = functools.partial(_make_evaluation, config, model, mesh, source)
        self._source, self._workdir = source, workdir
        self._spec = factory.clip_spec(config)
        # During training only one centred clip per video is evaluated, as in the reference.
        self._quick_spec = replace(
            self._spec, num_clips=1, num_crops=1, eval_resize=config.data.resize
        )
        self._evaluate_quick = self._make(self._quick_spec)
        self._latest: AnyEvaluation | None = None

    @property
    def quick_views(self) -> str:
        """The views of a video in `evaluate_quick`."""
        return describe_views(self._quick_spec)

    def evaluate_quick(self, params: Any) -> Mapping[str, float]:
        """Return the scores of one centred clip a video, and list the videos that are omitted."""
        self._latest = self._evaluate_quick(params)
        write_omitted(self._workdir, self._latest.omitted, self._source)
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
    reading = factory.reading_options(config, mesh)

    @rename_arguments(argument_names.EVALUATION)
    def evaluate_params(params: Any) -> AnyEvaluation:
        omitted: dict[int, str] = {}
        reasons = None if config.eval.strict else omitted
        batches = eval_batches(source, spec, batch_size=batch_size, omitted=reasons, **reading)
        return evaluate(
            step,
            params,
            batches,
            num_examples=len(source),
            place=functools.partial(place_batch, mesh=mesh, window_over=config.mesh.window_over),
            omissions=Omissions(omitted, config.data.max_bad_fraction),
        )

    return evaluate_params


def evaluate_checkpoint(config: ConfigDict, workdir: Path) -> AnyEvaluation:
    """Evaluate the workdir's checkpoint, or else the weights of init_from, and write the report.

    Raises:
      InputError: neither exists, or its parameters are those of another model.
    """
    weights = find_weights(config, workdir)
    held_out = factory.open_split(config, workdir, "eval", weights.label_names)
    check_held_out(held_out, config)
    model = factory.build_model(config, len(held_out.label_names))
    mesh = _mesh_of_these_devices(config, weights.metadata.get("config"))
    model = factory.split_over(mesh, config, model)
    params = weights.load(model)
    params = jax.device_put(params, tree_shardings(params, mesh, default_rules(mesh, params)))
    spec = factory.clip_spec(config)
    evaluation = _make_evaluation(config, model, mesh, held_out, spec)(params)
    latest = max(steps_in(workdir / "checkpoints"), default=None)
    name = directory_name(config, weights, latest, held_out)
    write_report(config, workdir, evaluation, held_out, weights, name)
    return evaluation


def _mesh_of_these_devices(config: ConfigDict, saved: Mapping[str, Any] | None) -> Mesh:
    """Build the mesh; that of a run which was trained on other devices need not fit here.

    Raises:
      InputError: the mesh does not fit, and it is not the one of the `saved` config.
    """
    try:
        return mesh_from_config(config)
    except InputError:
        is_typed = saved is None or load_saved_config(saved).mesh != config.mesh
        if is_typed:
            raise
    log_once("the mesh of the training run does not fit these devices, which share the batch")
    config.mesh.update(base_config().mesh)
    return mesh_from_config(config)


def finish_run(
    config: ConfigDict, workdir: Path, evaluation: AnyEvaluation, source: Source, step: int
) -> None:
    """Write the final score of a run after its last `step`: metrics, TensorBoard and report."""
    if jax.process_index() == 0:
        write_final(workdir, step, evaluation.summary())
    weights = EvaluatedWeights(lambda _: None, f"checkpoints/{step}", LATEST, step=step)
    write_report(config, workdir, evaluation, source, weights)


def write_report(
    config: ConfigDict,
    workdir: Path,
    evaluation: AnyEvaluation,
    source: Source,
    weights: EvaluatedWeights,
    name: str = OWN,
) -> None:
    """Write `workdir`/`name` and the curves of training, and print the scores in one line.

    A checkpoint may be evaluated while its run trains, so another process that writes these files
    is waited for.
    """
    if jax.process_index() != 0:
        return
    spec = factory.clip_spec(config)
    directory = workdir / name
    kind = "final" if name == OWN else "under other settings"
    activity = f"writing the evaluation of '{workdir}'"
    with exclusive_lock(workdir / LOCK_FILE, activity, wait_seconds=math.inf):
        report.draw_predictions(directory / "predictions.png", evaluation, source, spec)
        if (workdir / "metrics.jsonl").exists():
            report.draw_training(workdir, task_from_config(config).metric_titles)
        write_omitted(directory, evaluation.omitted, source)
        evaluation.save(
            directory,
            [video_name(source, index) for index in evaluation.indices.tolist()],
            source.label_names,
            {
                "score": kind,
                "step": weights.step,
                "checkpoint": weights.path,
                "checkpoint_reason": weights.reason,
                **summary_settings(config, spec),
            },
        )
    print_once(f"{report.describe(config.name, kind, evaluation, spec)}; see {directory}")
