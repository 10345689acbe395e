"""The checkpoints of a run while it trains: saved in the background, kept, and gone on from."""

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack, suppress
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental.multihost_utils import broadcast_one_to_all
from orbax.checkpoint import checkpoint_managers as policies

from vswin_jax.checkpoint import manifest
from vswin_jax.checkpoint.filter_logs import quiet_failures, quiet_orbax
from vswin_jax.checkpoint.matching import check_same_run
from vswin_jax.checkpoint.quarantine import put_damaged_aside
from vswin_jax.checkpoint.reading import metadata_of, reading, saved_tree
from vswin_jax.checkpoint.step_directories import (
    absolute,
    add_score,
    comparable,
    described,
    score_of,
    steps_in,
)
from vswin_jax.errors import InputError
from vswin_jax.runtime import disk_full, distributed
from vswin_jax.runtime.thread_priority import this_thread_gives_way, writers_give_way


class Checkpoints:
    """The checkpoints of one run, in `directory`: the latest `keep`, and the best one.

    Saving is asynchronous: `save` returns when the state is copied off the device. Close it (or
    use it in a `with` statement), or the last save may be lost.
    """

    def __init__(self, directory: str | os.PathLike[str], *, keep: int = 2) -> None:
        """Opens or creates `directory`, and clears away what a killed save left there.

        What was damaged since it was saved is said and put aside, never deleted.

        Raises:
          InputError: all that was saved there is damaged.
        """
        if keep < 1:
            raise InputError(f"At least one checkpoint must be kept, got keep={keep}: raise it.")
        self._directory = absolute(directory)
        self._saving, self._bytes, self._is_unheard = 0, 0, False
        quiet_orbax()
        self._put_damaged_aside()
        self._manager = ocp.CheckpointManager(
            self._directory, options=self._options(keep), item_handlers=_handlers()
        )
        self._open = ExitStack()
        self._open.enter_context(quiet_failures())
        self._open.callback(self._manager.close)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def save(
        self, step: int, state: Any, metadata: Mapping[str, Any], score: float | None = None
    ) -> bool:
        """Starts to save `state` with JSON `metadata`; False if that step is there already.

        The checkpoint with the highest `score` of all that have one is kept as the best.

        Raises:
          InputError: the disk is full, at this save or at the one before.
        """
        self.wait()
        if step in self._manager.all_steps():
            return False
        items = ocp.args.Composite(
            state=ocp.args.PyTreeSave(state),
            metadata=ocp.args.JsonSave(described(metadata, step)),
        )
        metrics = None if score is None else {"score": float(score)}
        self._saving, self._bytes = step, sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        self._is_unheard = True
        with self._explained():
            is_new = self._manager.save(step, args=items, metrics=metrics, force=True)
        writers_give_way()
        return is_new

    def has_score(self, step: int) -> bool:
        """Whether the saved `step` has a score."""
        return score_of(self._directory / str(step)) is not None

    def add_score(self, step: int, score: float) -> None:
        """Gives the saved `step`, which has none, its score; all processes call it.

        Raises:
          InputError: the disk is full.
        """
        self.wait()
        with self._explained():
            if jax.process_index() == 0:
                add_score(self._directory / str(step), score)
        distributed.wait_for_all("a score is added")
        self._manager.reload()

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
        directory = self._directory / str(step)
        metadata = metadata_of(directory)
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, target)
        check_same_run(saved_tree(directory), abstract, directory)
        how = ocp.checkpoint_utils.construct_restore_args(abstract)
        items = ocp.args.Composite(state=ocp.args.PyTreeRestore(abstract, how))
        with reading(directory):
            return self._manager.restore(step, args=items)["state"], metadata

    def wait(self) -> None:
        """Returns when all saves are complete on disk; errors as for `save`."""
        self._is_unheard = False
        with self._explained():
            self._manager.wait_until_finished()

    def check(self) -> None:
        """Called after each step: raises what a save in the background has ended with, if it has.

        It does not wait.

        Raises:
          InputError: the disk is full.
        """
        if not self._is_unheard:
            return
        # Asked first: what has ended starts no more threads.
        ended = not self.is_saving()
        writers_give_way()
        if ended:
            self.wait()

    def is_saving(self) -> bool:
        """Whether a save is still going on in the background."""
        return self._manager.is_saving_in_progress()

    def close(self) -> None:
        """Waits for all saves, and ends Orbax's threads; errors as for `save`."""
        with self._explained(), self._open:
            self.wait()

    def after_this(self) -> str:
        """What is to be said, when a run ends early, of the one that follows it."""
        steps = steps_in(self._directory)
        if not steps:
            return "nothing is saved yet, and the same command starts again"
        return f"what was saved is intact, and the same command goes on from step {max(steps)}"

    def _options(self, keep: int) -> ocp.CheckpointManagerOptions:
        best = policies.BestN(get_metric_fn=comparable, n=1, keep_checkpoints_without_metrics=False)
        return ocp.CheckpointManagerOptions(
            preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(keep), best]),
            best_fn=comparable,
            cleanup_tmp_directories=True,
            async_options=ocp.AsyncOptions(post_finalization_callback=self._write_manifest),
        )

    def _put_damaged_aside(self) -> None:
        """The first process does it, and all go on or end."""
        failure: InputError | None = None
        if jax.process_index() == 0:
            try:
                put_damaged_aside(self._directory)
            except InputError as error:
                failure = error
        if jax.process_count() > 1 and broadcast_one_to_all(np.int32(failure is not None)):
            failure = failure or InputError("No checkpoint is intact: see what process 0 says.")
        if failure:
            raise failure

    def _write_manifest(self) -> None:
        # Orbax calls it in the first process when the files of all are there, just before the
        # step gets its mark and its name. Not every version of it marks what is complete.
        # The thread is of this save alone.
        this_thread_gives_way()
        unfinished = self._temporary().get()
        manifest.write(unfinished, marked=(unfinished / "metadata" / manifest.MARKER).exists())

    def _temporary(self) -> ocp.path.atomicity_types.TemporaryPath:
        step = self._directory / str(self._saving)
        kind = ocp.path.atomicity_defaults.get_default_temporary_path_class(step)
        return kind.from_final(step)

    def _explained(self) -> AbstractContextManager[None]:
        return disk_full.explained(self._directory, self._give_up)

    def _give_up(self) -> str:
        """Frees the room that an unfinished save takes, and says what is lost."""
        unfinished = self._temporary()
        if jax.process_index() == 0 and unfinished.get() != unfinished.get_final():
            with suppress(OSError):
                unfinished.get().rmtree()
        size = disk_full.amount(self._bytes)
        return f"step {self._saving} ({size}) is not saved, {self.after_this()}"


def _handlers() -> dict[str, ocp.CheckpointHandler]:
    # Trained weights shrink by a twelfth, and compressing them is most of what a save takes from
    # the steps beside it.
    arrays = ocp.PyTreeCheckpointHandler(use_compression=False)
    return {"state": arrays, "metadata": ocp.JsonCheckpointHandler()}
