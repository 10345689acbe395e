"""The weights that an evaluation scores: a step of the workdir's run, or those of init_from."""

import functools
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from vswin_jax import checkpoint, factory, models
from vswin_jax.checkpoint import ChosenStep
from vswin_jax.config.changes import setting_changes
from vswin_jax.errors import InputError
from vswin_jax.runtime.console import log_once
from vswin_jax.training import resume_check
from vswin_jax.weights import find_weight_file, load_weights, weights_exist

log = logging.getLogger(__name__)

INIT_FROM = "weights of config.init_from"


@dataclass(frozen=True)
class EvaluatedWeights:
    """Trained parameters, which `load(model)` checks against the model and returns.

    Attributes:
      load: returns the parameters.
      path: the file or directory that holds them; that of the workdir's own run is relative to it.
      reason: a phrase on the choice of them.
      label_names: None for a file of weights, which does not hold them.
      step: the step of the checkpoint, or None for a file.
      metadata: that of the checkpoint of the workdir's own run, or else empty.
    """

    load: Callable[[models.SwinTransformer3D], Any]
    path: str
    reason: str = INIT_FROM
    label_names: tuple[str, ...] | None = None
    step: int | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict, repr=False)


def find_weights(config: ConfigDict, workdir: str | os.PathLike) -> EvaluatedWeights:
    """Find the weights of the run in `workdir`, or else those of `config.init_from`.

    Of several steps `config.eval.checkpoint` chooses one, as `choose_step` describes; the choice is
    logged.

    Raises:
      InputError: there are no weights; all steps, or the best one, are damaged; later, from `load`:
        the weights are of another model.
    """
    chosen = _choose(config, workdir)
    if chosen is None:
        path = config.init_from
        load_file = lambda model: load_weights(path, model, allow_fresh=())["params"]  # noqa: E731
        return EvaluatedWeights(load_file, path)
    log_once(f"evaluating {chosen.describe()}")
    params, metadata = checkpoint.load_step(chosen)
    resume_check.check_same_task(config, metadata, chosen.directory)
    is_own = factory.has_checkpoint(workdir)
    if is_own:
        _log_changes(config, metadata.get("config", {}))
    return EvaluatedWeights(
        load=functools.partial(factory.check_params, params),
        path=f"checkpoints/{chosen.step}" if is_own else str(chosen.directory),
        reason=chosen.reason if is_own else f"{INIT_FROM} ({chosen.reason})",
        label_names=tuple(metadata["label_names"]),
        step=metadata["step"],
        metadata=metadata if is_own else {},
    )


def _log_changes(config: ConfigDict, saved: Mapping[str, Any]) -> None:
    """Log each setting that is not the run's own, if its checkpoint holds a config."""
    changes = setting_changes(saved, config) if saved else []
    for change in changes:
        log_once(f"other than the run's own config: {change.description}")
    if saved and config.init_from != saved.get("init_from", ""):
        log.warning(
            "config.init_from (%r) is not evaluated, because the workdir has the checkpoints of a "
            "run: name another workdir to evaluate these weights",
            config.init_from,
        )


def _choose(config: ConfigDict, workdir: str | os.PathLike) -> ChosenStep | None:
    """Return the step to evaluate, or None for a file of weights."""
    if factory.has_checkpoint(workdir):
        return checkpoint.choose_step(Path(workdir) / "checkpoints", config.eval.checkpoint)
    path = config.init_from
    if not weights_exist(path):
        raise InputError(
            f"Expected a checkpoint to evaluate but {str(workdir)!r} has none: train first, or "
            f"give weights as --config.init_from=PATH, a released checkpoint's name or a URL."
        )
    if not os.path.isdir(path) or find_weight_file(Path(path)) is not None:
        return None
    return checkpoint.choose_step(path, config.eval.checkpoint)
