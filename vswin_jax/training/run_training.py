"""Training on the videos of a config: batches, files of the workdir and the call of `train`."""

import functools
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vswin_jax.data.clips.clip_spec import ClipSpec
from vswin_jax.data.clips.mirrored_labels import describe_pairs
from vswin_jax.data.example import Source
from vswin_jax.data.pipeline.bad_videos import BadVideos
from vswin_jax.data.pipeline.pipeline import train_batches
from vswin_jax.models import SwinTransformer3D
from vswin_jax.reporting.metric_writer import log_parameter_table
from vswin_jax.runtime.atomic_write import write_json
from vswin_jax.runtime.label_names import write_label_names
from vswin_jax.training.first_screen import log_first_screen
from vswin_jax.training.loop import Draw, Evaluate
from vswin_jax.training.resume_check import DATA
from vswin_jax.training.state import sharded_shapes
from vswin_jax.training.task import task_from_config
from vswin_jax.training.train import TrainResult, train

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingInputs:
    """Data, model, mesh and weights that a config describes; `factory.training_inputs` builds them.

    `sampler_options` and `reading_options` are arguments of `train_batches`: for the choice of
    examples, and for the threads that read them. `initial_params` is None for random weights.
    `data` describes the videos in every checkpoint; see `resume_check.describe_data`.
    """

    source: Source
    held_out: Source
    spec: ClipSpec
    model: SwinTransformer3D
    mesh: Mesh
    sampler_options: Mapping[str, Any]
    reading_options: Mapping[str, Any]
    initial_params: Callable[[], Any] | None
    data: Mapping[str, Any]


def run_training(
    config: ConfigDict,
    workdir: Path,
    inputs: TrainingInputs,
    *,
    evaluate: Evaluate,
    quick_views: str,
    draw_first: Draw,
    profile: tuple[int, int] | None = None,
    begun: float | None = None,
    show_parameters: bool = False,
) -> TrainResult:
    """Train on `inputs` by the settings of `config`; the other arguments are those of `train`.

    With `show_parameters` a table of all parameters is logged.
    """
    mirrored_labels = inputs.sampler_options["mirrored_labels"]
    if mirrored_labels is not None:
        log.info("%s", describe_pairs(mirrored_labels, inputs.source.label_names))
    videos = {"train": len(inputs.source), "eval": len(inputs.held_out)}
    log_first_screen(config, workdir, inputs.model, inputs.mesh, videos)
    if show_parameters:
        log_parameter_table(sharded_shapes(inputs.model, inputs.mesh))
    bad_videos = BadVideos(workdir / "bad_videos.csv", config.data.max_bad_fraction)
    result = train(
        config,
        workdir,
        functools.partial(_train_batches, config, workdir, inputs, bad_videos),
        model=inputs.model,
        num_examples=len(inputs.source) * config.data.aug_repeats,
        initial_params=inputs.initial_params,
        evaluate=evaluate,
        quick_views=quick_views,
        draw_first=draw_first,
        metadata={
            "config": config.to_dict(),
            "label_names": list(inputs.source.label_names),
            DATA: dict(inputs.data),
        },
        mesh=inputs.mesh,
        task=task_from_config(config),
        profile=profile,
        begun=begun,
    )
    if bad_videos.bad:
        log.warning("%s", bad_videos.summary())
    return result


def _train_batches(
    config: ConfigDict,
    workdir: Path,
    inputs: TrainingInputs,
    bad_videos: BadVideos,
    start_step: int,
) -> Iterator[Mapping[str, np.ndarray]]:
    # `train` calls this after checking that the workdir's checkpoint, if any, fits the model.
    if jax.process_index() == 0:
        write_json(workdir / "config.json", config.to_dict())
        write_label_names(workdir / "label_names.txt", inputs.source.label_names)
    return train_batches(
        inputs.source,
        inputs.spec,
        start_step=start_step,
        bad_videos=bad_videos,
        **inputs.sampler_options,
        **inputs.reading_options,
    )
