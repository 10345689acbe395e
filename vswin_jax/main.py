"""Command line of training, evaluation and dry runs: `python -m vswin_jax.main --help`."""

import functools
import gc
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from vswin_jax.runtime.first_line import announce

if __name__ == "__main__":
    # Before the imports below, which take seconds.
    announce(sys.argv[1:])
    gc.disable()

import jax
import numpy as np
from ml_collections import ConfigDict

from vswin_jax import factory
from vswin_jax.config import argument_names, flags, rules
from vswin_jax.errors import rename_arguments
from vswin_jax.evaluation.omitted_videos import check_held_out
from vswin_jax.evaluation.report import evaluated_step
from vswin_jax.evaluation.run_evaluation import Evaluator, evaluate_checkpoint, finish_run
from vswin_jax.runtime import compilation, disk_full, distributed
from vswin_jax.runtime.command import run_command, run_process
from vswin_jax.runtime.console import log_once, log_to_stderr, print_once
from vswin_jax.runtime.output_path import output_directory
from vswin_jax.runtime.workdir_lock import lock_workdir
from vswin_jax.training.run_training import TrainingInputs, run_training

_WRITTEN = ("checkpoints", "evaluation")
_DISK_FULL_ADVICE = "the same command resumes from the latest checkpoint"


def run(arguments: Sequence[str]) -> int:
    """Run the command line and return its exit status; 1 is a dry run of a step that does not fit.

    The other statuses are those of `run_command`.
    """
    return run_command(lambda: _run(arguments))


@rename_arguments(argument_names.RUN)
def _run(arguments: Sequence[str]) -> int:
    command = flags.parse(arguments)
    if command is None:
        print_once(flags.USAGE.rstrip())
        return 0
    config = command.config
    rules.check(config, divides=command.mode != "dry_run")
    # Before any video is written.
    factory.check_settings(config, trains=command.mode != "evaluate")
    if command.mode == "dry_run":
        # A run needs neither this nor, until its first steps are under way, what draws clips.
        from vswin_jax.analysis.dry_run import dry_run

        with log_to_stderr():
            text, fits = dry_run(config, command.topology)
        print_once(text)
        return 0 if fits else 1
    workdir = _checked_workdir(command.workdir)
    distributed.join(command.cluster_member, command.heartbeat)
    with (
        log_to_stderr(),
        disk_full.reraise_disk_full(workdir, lambda: _DISK_FULL_ADVICE),
        compilation.persistent_cache(config.train.compilation_cache, workdir),
        compilation.Compilations(log_slow=True),
    ):
        for note in command.notes:
            log_once(note)
        if command.mode == "train":
            with lock_workdir(workdir):
                return train_and_evaluate(
                    config,
                    workdir,
                    command.profile,
                    allow_changes=command.allow_changes,
                    show_parameters=command.show_parameters,
                )
        evaluate_checkpoint(config, workdir)
        return 0


def _checked_workdir(path: str) -> Path:
    workdir = output_directory(path, "--workdir")
    # An earlier run, as another user, may have made these.
    for name in _WRITTEN:
        output_directory(workdir / name, "--workdir")
    return workdir


def train_and_evaluate(
    config: ConfigDict,
    workdir: Path,
    profile: tuple[int, int] | None = None,
    *,
    allow_changes: bool = False,
    show_parameters: bool = False,
) -> int:
    """Train to the end, evaluate the held-out videos, write the report; return the exit status."""
    begun = time.monotonic()
    inputs = factory.training_inputs(config, workdir, allow_changes=allow_changes)
    check_held_out(inputs.held_out, config)
    evaluator = Evaluator(config, inputs.model, inputs.mesh, inputs.held_out, workdir)
    result = run_training(
        config,
        workdir,
        inputs,
        evaluate=evaluator.evaluate_quick,
        quick_views=evaluator.quick_views,
        draw_first=functools.partial(_draw_first_batch, config, workdir, inputs),
        profile=profile,
        begun=begun,
        show_parameters=show_parameters,
    )
    if result.stopped_by is not None:
        print_once(
            f"{signal.Signals(result.stopped_by).name} stopped this run after step {result.step} "
            f"of {result.total_steps}, which is saved: the same command resumes from there."
        )
        return 128 + result.stopped_by
    if result.was_finished and evaluated_step(workdir) == result.step:
        print_once(f"This run is finished: all {result.step} steps are done, see {workdir}.")
        return 0
    evaluation = evaluator.evaluate_final(result.params)
    finish_run(config, workdir, evaluation, inputs.held_out, result.step)
    return 0


def _draw_first_batch(
    config: ConfigDict, workdir: Path, inputs: TrainingInputs, batch: Mapping[str, jax.Array]
) -> np.ndarray:
    from vswin_jax.preview.training_clips import draw_first_batch

    return draw_first_batch(
        batch, config=config, source=inputs.source, workdir=workdir, mesh=inputs.mesh
    )


def main() -> int:
    """Run the command line of this process."""
    # What was imported lives to the end: the garbage collector need not look at it again.
    gc.freeze()
    gc.enable()
    return run_process(lambda: run(sys.argv[1:]))


if __name__ == "__main__":
    sys.exit(main())
