"""Saves and restores the checkpoints of a training run, by Orbax's `CheckpointManager`."""

import functools
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack, suppress
from typing import Any

import jax
import numpy as np
from jax.experimental.multihost_utils import broadcast_one_to_all

from vswin_jax.checkpoint import manifest
from vswin_jax.checkpoint.filter_logs import filter_orbax_logs, ignore_closed_loops
from vswin_jax.checkpoint.matching import check_same_run
from vswin_jax.checkpoint.quarantine import quarantine
from vswin_jax.checkpoint.reading import read_step_metadata, reraise_unreadable, saved_tree
from vswin_jax.checkpoint.step_directories import (
    absolute_path,
    add_score,
    comparable_score,
    read_score,
    step_metadata,
    steps_in,
)
from vswin_jax.errors import InputError
from vswin_jax.runtime import disk_full, distributed
from vswin_jax.runtime.lazy_module import LazyModule
from vswin_jax.runtime.thread_priority import lower_current_thread, lower_writer_threads

ocp = LazyModule("orbax.checkpoint")
policies = LazyModule("orbax.checkpoint.checkpoint_managers")


class Checkpoints:
    """The checkpoints of one run, in `directory`: the latest `max_to_keep`, and the best one.

    Saving is asynchronous: `save` returns once the state is copied off the device. Close the
    object, or use it in a `with` statement, or the last save may be lost.
    """

    def __init__(self, directory: str | os.PathLike[str], *, max_to_keep: int = 2) -> None:
        """Open or create `directory`; delete unfinished files and quarantine damaged steps.

        Raises:
          InputError: all steps in `directory` are damaged.
        """
        if max_to_keep < 1:
            raise InputError(f"Expected max_to_keep to be 1 or more but {max_to_keep} came.")
        self._directory, self._max_to_keep = absolute_path(directory), max_to_keep
        # The step of the latest save, its size in bytes, and whether its outcome is still unknown.
        self._saving, self._bytes, self._is_pending = 0, 0, False
        filter_orbax_logs()
        # Before Orbax opens the directory, which fails if a score is damaged.
        self._quarantine_damaged()
        self._exit_stack = ExitStack()
        self._directory.mkdir(parents=True, exist_ok=True)
        # A new run needs Orbax, which takes a while to import, only when it saves its first step.
        if jax.process_count() > 1 or any(self._directory.iterdir()):
            self._manager.latest_step()

    @functools.cached_property
    def _manager(self) -> "ocp.CheckpointManager":
        manager = ocp.CheckpointManager(
            self._directory,
            options=self._options(self._max_to_keep),
            item_handlers=_handlers(),
        )
        self._exit_stack.enter_context(ignore_closed_loops())
        self._exit_stack.callback(manager.close)
        return manager

    @property
    def _is_new(self) -> bool:
        """True while nothing has been saved or found."""
        return "_manager" not in self.__dict__

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def save(
        self, step: int, state: Any, metadata: Mapping[str, Any], score: float | None = None
    ) -> bool:
        """Start to save `state` with JSON `metadata`; return False if that step exists already.

        The checkpoint with the highest `score`, among those that have one, is kept as the best.

        Raises:
          InputError: the disk is full, for this save or for the previous one.
        """
        self.wait()
        if step in self._manager.all_steps():
            return False
        json_metadata = ocp.args.JsonSave(step_metadata(metadata, step))
        items = ocp.args.Composite(state=ocp.args.PyTreeSave(state), metadata=json_metadata)
        metrics = None if score is None else {"score": float(score)}
        self._saving, self._bytes = step, sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        self._is_pending = True
        with self._reraise_disk_full():
            is_new = self._manager.save(step, args=items, metrics=metrics, force=True)
        lower_writer_threads()
        return is_new

    def has_score(self, step: int) -> bool:
        """Return True if the saved `step` has a score."""
        return read_score(self._directory / str(step)) is not None

    def add_score(self, step: int, score: float) -> None:
        """Add the score of a saved `step` that has none; all processes call it.

        Steps that are neither among the latest nor the best any more are deleted.

        Raises:
          InputError: the disk is full.
        """
        self.wait()
        with self._reraise_disk_full():
            if jax.process_index() == 0:
                add_score(self._directory / str(step), score)
        distributed.wait_for_all("a score is added")
        self._manager.reload()
        # All list the same steps before one of them is deleted.
        distributed.wait_for_all("the steps are listed")
        self._delete_surplus()

    def _delete_surplus(self) -> None:
        """Delete what the next save would: at this one, the score of its step was not known."""
        steps = sorted(self._manager.all_steps())
        kept = {*steps[-self._max_to_keep :], self._manager.best_step()}
        for step in steps:
            if step not in kept:
                self._manager.delete(step)

    def latest_step(self) -> int | None:
        """Return the last complete step, or None."""
        return None if self._is_new else self._manager.latest_step()

    def best_step(self) -> int | None:
        """Return the step with the highest score, or None if no step has a score."""
        return None if self._is_new else self._manager.best_step()

    def restore_latest(self, target: Any) -> tuple[Any, dict[str, Any]] | None:
        """Restore the latest (state, metadata); None if there is no checkpoint yet.

        `target` is a state, or its shapes and shardings (`state.abstract_state`). The restored
        state is bit-equal to the saved one, in the layout of `target`.

        Raises:
          InputError: the checkpoint is of another model or optimizer, or cannot be read.
        """
        step = self.latest_step()
        if step is None:
            return None
        directory = self._directory / str(step)
        metadata = read_step_metadata(directory)
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, target)
        check_same_run(saved_tree(directory), abstract, directory)
        restore_args = ocp.checkpoint_utils.construct_restore_args(abstract)
        items = ocp.args.Composite(state=ocp.args.PyTreeRestore(abstract, restore_args))
        with reraise_unreadable(directory):
            return self._manager.restore(step, args=items)["state"], metadata

    def wait(self) -> None:
        """Wait until all saves are complete on disk; errors as for `save`."""
        if self._is_new:
            return
        self._is_pending = False
        with self._reraise_disk_full():
            self._manager.wait_until_finished()

    def check_for_errors(self) -> None:
        """Raise the error of a save in the background if it has failed; never wait.

        The training loop calls it after each step. It also lowers the priority of threads that the
        save has started since the last call.

        Raises:
          InputError: the disk is full.
        """
        if not self._is_pending:
            return
        # In this order, because a save that has ended by now starts no more threads.
        has_ended = not self.is_saving()
        lower_writer_threads()
        if has_ended:
            self.wait()

    def is_saving(self) -> bool:
        """Return True while a save is in progress in the background."""
        return not self._is_new and self._manager.is_saving_in_progress()

    def close(self) -> None:
        """Wait for all saves and end Orbax's threads; errors as for `save`."""
        with self._reraise_disk_full(), self._exit_stack:
            self.wait()

    def resume_hint(self) -> str:
        """Return the clause of an error message that describes how the next run starts."""
        steps = steps_in(self._directory)
        if not steps:
            return "nothing is saved yet, and the same command starts over"
        return f"what was saved is intact, and the same command resumes from step {max(steps)}"

    def _options(self, max_to_keep: int) -> "ocp.CheckpointManagerOptions":
        latest = policies.LatestN(max_to_keep)
        best = policies.BestN(
            get_metric_fn=comparable_score, n=1, keep_checkpoints_without_metrics=False
        )
        return ocp.CheckpointManagerOptions(
            preservation_policy=policies.AnyPreservationPolicy([latest, best]),
            best_fn=comparable_score,
            cleanup_tmp_directories=True,
            async_options=ocp.AsyncOptions(post_finalization_callback=self._write_manifest),
        )

    def _quarantine_damaged(self) -> None:
        """Quarantine damaged steps in process 0; all processes continue, or all raise."""
        failure: InputError | None = None
        if jax.process_index() == 0:
            try:
                quarantine(self._directory)
            except InputError as error:
                failure = error
        # Also a barrier: the others list the directory only after the renames.
        if jax.process_count() > 1 and broadcast_one_to_all(np.int32(failure is not None)):
            failure = failure or InputError("No checkpoint is intact: see the error of process 0.")
        if failure:
            raise failure

    def _write_manifest(self) -> None:
        # Orbax calls it in process 0, in a thread of this save alone, when the files of all
        # processes are written, just before it marks and renames the step. Not every version of
        # Orbax marks a complete step.
        lower_current_thread()
        unfinished = self._temporary_path().get()
        manifest.write(unfinished, marked=(unfinished / "metadata" / manifest.MARKER).exists())

    def _temporary_path(self) -> "ocp.path.atomicity_types.TemporaryPath":
        step = self._directory / str(self._saving)
        path_class = ocp.path.atomicity_defaults.get_default_temporary_path_class(step)
        return path_class.from_final(step)

    def _reraise_disk_full(self) -> AbstractContextManager[None]:
        return disk_full.reraise_disk_full(self._directory, self._discard_unfinished)

    def _discard_unfinished(self) -> str:
        """Delete the files of an unfinished save; return the clause on what is lost."""
        unfinished = self._temporary_path()
        if jax.process_index() == 0 and unfinished.get() != unfinished.get_final():
            with suppress(OSError):
                unfinished.get().rmtree()
        size = disk_full.format_bytes(self._bytes)
        return f"step {self._saving} ({size}) is not saved, {self.resume_hint()}"


def _handlers() -> "dict[str, ocp.CheckpointHandler]":
    # Compression would shrink trained weights by only a twelfth, and would be most of the CPU time
    # that a save takes from the training steps that run meanwhile.
    arrays = ocp.PyTreeCheckpointHandler(use_compression=False)
    return {"state": arrays, "metadata": ocp.JsonCheckpointHandler()}
