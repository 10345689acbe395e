"""Checkpoints: Orbax's manager behind a thin door, and the reading of one for inference.

A step's directory holds the whole state and, as JSON, what inference needs to know (config, label
names). It gets its name only once it is complete, so a kill leaves the one before usable.
"""

import contextlib
import logging
import math
import os
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers as policies

from vswin_jax.errors import InputError

PROGRAM = "vswin_jax"
# What Orbax and TensorStore raise for files that are missing, cut short or not theirs.
_UNREADABLE = (ValueError, OSError, KeyError, TypeError)


class Checkpoints:
    """The checkpoints of one run, in `directory`: the latest `keep`, and the best one.

    Saving is asynchronous: `save` returns when the state is copied off the device. Close it (or
    use it in a `with` statement), or the last save may be lost.
    """

    def __init__(self, directory: str | os.PathLike[str], *, keep: int = 2) -> None:
        """Opens or creates `directory`, and clears away what a killed save left there."""
        if keep < 1:
            raise InputError(f"At least one checkpoint must be kept, got keep={keep}: raise it.")
        self._manager = _open_manager(_absolute(directory), keep=keep)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def save(
        self, step: int, state: Any, metadata: Mapping[str, Any], score: float | None = None
    ) -> bool:
        """Starts to save `state` with JSON `metadata`; False if that step is there already.

        The checkpoint with the highest `score` of all that have one is kept as the best.
        """
        if step in self._manager.all_steps():
            return False
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            metadata=ocp.args.JsonSave({**metadata, "program": PROGRAM, "step": step}),
        )
        metrics = None if score is None else {"score": float(score)}
        return self._manager.save(step, args=items, metrics=metrics, force=True)

    def latest_step(self) -> int | None:
        """The last complete step, or None."""
        return self._manager.latest_step()

    def best_step(self) -> int | None:
        """The step with the highest score, or None where no step has one."""
        return self._manager.best_step()

    def restore_latest(self, target: Any) -> tuple[Any, dict[str, Any]] | None:
        """The latest (state, metadata), or None if there is no checkpoint yet.

        `target` is a state, or its shapes and shardings (`state.abstract_state`); the restored
        one is bit-equal to the saved one, in `target`'s layout.

        Raises:
          InputError: the checkpoint is of another model or optimizer, or cannot be read.
        """
        step = self._manager.latest_step()
        if step is None:
            return None
        directory = self._manager.directory / str(step)
        metadata = _read_metadata(directory)
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, target)
        _check_same_run(directory, abstract)
        items = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
        with _reading(directory):
            return self._manager.restore(step, args=items)["state"], metadata

    def wait(self) -> None:
        """Returns when all saves are complete on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for all saves, and ends Orbax's threads."""
        self._manager.close()


def _open_manager(
    directory: epath.Path, *, keep: int | None = None, read_only: bool = False
) -> ocp.CheckpointManager:
    _quiet_orbax()
    best = policies.BestN(get_metric_fn=_score, n=1, keep_checkpoints_without_metrics=False)
    options = ocp.CheckpointManagerOptions(
        preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(keep), best]),
        best_fn=_score,
        cleanup_tmp_directories=not read_only,
        create=not read_only,
        read_only=read_only,
    )
    return ocp.CheckpointManager(directory, options=options)


def _score(metrics: Mapping[str, float]) -> float:
    score = float(metrics["score"])
    return -math.inf if math.isnan(score) else score


def _absolute(path: str | os.PathLike[str]) -> epath.Path:
    text = os.fspath(path)
    return epath.Path(text if "://" in text else os.path.abspath(text))


def _quiet_orbax() -> None:
    """Keeps Orbax's progress reports, hundreds of lines a run, out of the log; errors stay."""
    absl_log = logging.getLogger("absl")
    if _not_chatter not in absl_log.filters:
        absl_log.addFilter(_not_chatter)


def _not_chatter(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR or "orbax" not in record.pathname


def load_for_inference(path: str | os.PathLike[str]) -> tuple[Any, dict[str, Any]]:
    """The (parameters, metadata) of a checkpoint, the averaged parameters where it has them.

    `path` is a run's directory, its `checkpoints` directory, or the directory of one step; of
    several steps the best one is taken, or the latest where none has a score. The parameters are
    NumPy arrays, and neither the optimizer's state nor the devices it was on are needed.

    Raises:
      InputError: nothing there, no checkpoint there, or one that cannot be read or is not ours.
    """
    directory = _step_directory(_absolute(path))
    metadata = _read_metadata(directory)
    saved = _saved_tree(directory)
    name = "ema_params" if saved.get("ema_params") else "params"
    wanted = {name: saved.get(name)}
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
    arguments = ocp.args.PyTreeRestore(item=wanted, restore_args=as_numpy, partial_restore=True)
    with _reading(directory), ocp.PyTreeCheckpointer() as reader:
        return reader.restore(directory / "state", args=arguments)[name], metadata


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What was saved beside the state; `path` and errors as for `load_for_inference`."""
    return _read_metadata(_step_directory(_absolute(path)))


def _saved_tree(directory: epath.Path) -> dict[str, Any]:
    """The saved state's tree as plain dictionaries and lists, with shapes for leaves."""
    with _reading(directory), ocp.PyTreeCheckpointer() as reader:
        saved = reader.metadata(directory / "state").item_metadata
        if saved is None:
            raise FileNotFoundError("its state has no metadata")
        return saved.tree


def _step_directory(path: epath.Path) -> epath.Path:
    if not path.exists():
        raise InputError(
            f"A checkpoint was expected at '{path}', but nothing is there: give the directory of a "
            f"run, or of one of its checkpoints."
        )
    if (path / "state").is_dir():
        return path
    root = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    if not root.is_dir() or not any(child.name.isdigit() for child in root.iterdir()):
        raise InputError(
            f"No checkpoint was found in '{root}': give the directory of a run that has saved one."
        )
    with _open_manager(root, read_only=True) as manager:
        best = manager.best_step()
        step = manager.latest_step() if best is None else best
    return root / str(step)


def _read_metadata(directory: epath.Path) -> dict[str, Any]:
    _quiet_orbax()
    with _reading(directory), ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
        metadata = reader.restore(directory / "metadata")
    if not isinstance(metadata, dict) or metadata.get("program") != PROGRAM:
        raise InputError(
            f"'{directory}' was written by another program than {PROGRAM}: give a checkpoint "
            f"that {PROGRAM} has saved."
        )
    return metadata


@contextlib.contextmanager
def _reading(directory: epath.Path) -> Iterator[None]:
    """Turns what reading raises into an `InputError` that names the checkpoint."""
    try:
        yield
    except _UNREADABLE as error:
        reason = (str(error).strip().splitlines() or ["no reason given"])[0][:200]
        raise InputError(
            f"The checkpoint '{directory}' cannot be read, it is damaged or no checkpoint of ours "
            f"({type(error).__name__}: {reason}): use another one, or delete it to go on from the "
            f"one before."
        ) from error


def _check_same_run(directory: epath.Path, abstract: Any) -> None:
    difference = _first_difference(_shapes(_saved_tree(directory)), _shapes(abstract))
    if difference:
        raise InputError(
            f"The checkpoint '{directory}' is not of this run: {difference}; start with the config "
            f"that it was saved with, or in an empty directory."
        )


def check_matches(params: Any, model_params: Any, source: str = "The checkpoint") -> None:
    """Checks that `params` fit a model whose parameters (or shapes) are `model_params`.

    Raises:
      InputError: names the first parameter that is missing, left over or of another shape.
    """
    difference = _first_difference(_shapes(params), _shapes(model_params))
    if difference:
        raise InputError(
            f"{source} is of another model: {difference}; give the model the settings that it was "
            f"made with, or another checkpoint."
        )


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree.leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
        for path, leaf in leaves
    }


def _first_difference(
    saved: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]]
) -> str | None:
    for path in sorted(saved.keys() | wanted.keys()):
        if path not in saved:
            return f"it has no '{path}', which this model has with shape {wanted[path]}"
        if path not in wanted:
            return f"it has '{path}' of shape {saved[path]}, which this model has not"
        if saved[path] != wanted[path]:
            return f"'{path}' has shape {saved[path]} in it and {wanted[path]} in this model"
    return None
