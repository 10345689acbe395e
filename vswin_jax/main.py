"""Trains or evaluates what a config describes: `python -m vswin_jax.main --help`."""

import contextlib
import functools
import json
import logging
import math
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vswin_jax import factory, models
from vswin_jax.analysis.dry_run import dry_run
from vswin_jax.config import flags, rules
from vswin_jax.data.clips.clips import ClipSpec
from vswin_jax.data.clips.mirrored_labels import describe_pairs
from vswin_jax.data.example import Source
from vswin_jax.data.pipeline.bad_videos import BadVideos
from vswin_jax.data.pipeline.clip_processes import choose_processes
from vswin_jax.data.sources.labels import write_label_names
from vswin_jax.errors import InputError
from vswin_jax.evaluation import report
from vswin_jax.evaluation.evaluate import evaluate
from vswin_jax.evaluation.results import AnyEvaluation
from vswin_jax.preview.training_clips import draw_first_batch
from vswin_jax.runtime import compilation, disk_full, distributed, preemption
from vswin_jax.runtime.atomic_write import whole_file
from vswin_jax.sharding.mesh import (
    batch_parts,
    batch_share,
    default_rules,
    mesh_of,
    place_batch,
    tree_shardings,
)
from vswin_jax.training.loop import Trained, train
from vswin_jax.training.steps import make_eval_step
from vswin_jax.training.task import task_of

log = logging.getLogger("vswin_jax")


def run(arguments: Sequence[str]) -> int:
    """The command line; the exit status is 0, 2 for a wrong input, 128 + n after signal n.

    It is 1 for a dry run of what does not fit. Of several processes all end when one does, with
    its reason.
    """
    with preemption.watching() as watch:
        try:
            status = _run(arguments)
            if status == 0:
                distributed.part_when_all_are_done()
        except preemption.Stopped as stopped:
            _say(
                f"{signal.Signals(stopped.number).name} stopped this run: nothing is lost, the "
                f"same command goes on from what is saved."
            )
            status = 128 + stopped.number
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            status = 2
            watch.fail(status, str(error))
        except Exception as error:
            if distributed.current() is None:
                raise
            # While it leaves the others it may be ended itself, with nothing said.
            traceback.print_exc()
            status = 1
            watch.fail(status, f"{type(error).__name__}: {error}")
        distributed.part()
    return status


def _run(arguments: Sequence[str]) -> int:
    asked = flags.parse(arguments)
    if asked is None:
        print(flags.USAGE, end="")
        return 0
    rules.check(asked.config)
    # The model knows its own settings; a wrong one is refused before any video is written.
    factory.build_model(asked.config, num_classes=1)
    if asked.mode == "dry_run":
        with _log_to_stderr():
            text, fits = dry_run(asked.config, asked.topology)
        _say(text)
        return 0 if fits else 1
    workdir = Path(asked.workdir)
    distributed.join(asked.place, asked.heartbeat)
    with (
        _log_to_stderr(),
        disk_full.explained(workdir, _after_a_full_disk),
        compilation.kept(asked.config.train.compilation_cache, workdir),
        compilation.Compilations(say=True),
    ):
        if asked.mode == "train":
            return train_and_evaluate(asked.config, workdir, asked.profile)
        return evaluate_only(asked.config, workdir)


def _after_a_full_disk() -> str:
    return "the same command goes on from the latest checkpoint"


def train_and_evaluate(
    config: ConfigDict, workdir: Path, profile: tuple[int, int] | None = None
) -> int:
    """Trains to the end, then scores the held-out videos and draws the results."""
    begun = time.monotonic()
    load = None if factory.has_checkpoint(workdir) else factory.starting_weights(config)
    training = factory.open_split(config, workdir, "train")
    held_out = factory.open_split(config, workdir, "eval", training.label_names)
    model = factory.build_model(config, len(training.label_names))
    mesh = mesh_of(config)
    model = factory.split_over(mesh, config, model)
    spec = factory.clip_spec(config)
    order = factory.training_order(config, training)
    if order["mirrored_labels"] is not None:
        log.info("%s", describe_pairs(order["mirrored_labels"], training.label_names))
    # During training one centred clip a video has to do, as in the reference.
    quick = replace(spec, clips=1, crops=1, eval_resize=config.data.resize)
    score_quickly = make_score(config, model, mesh, held_out, quick)
    bad_videos = BadVideos(workdir / "bad_videos.csv", config.data.max_bad_fraction)
    last: AnyEvaluation | None = None

    def evaluate_quickly(params: Any) -> Mapping[str, float]:
        nonlocal last
        last = score_quickly(params)
        return last.summary()

    result = train(
        config,
        workdir,
        functools.partial(_train_batches, config, workdir, mesh, training, order, bad_videos),
        model=model,
        num_examples=len(training) * config.data.repeats,
        initial_params=(lambda: load(model)) if load else None,
        evaluate=evaluate_quickly,
        draw_first=functools.partial(
            draw_first_batch, config=config, source=training, workdir=workdir, mesh=mesh
        ),
        metadata={"config": config.to_dict(), "label_names": list(training.label_names)},
        mesh=mesh,
        task=task_of(config),
        profile=profile,
        begun=begun,
    )
    if bad_videos.bad:
        log.warning("%s", bad_videos.summary())
    if result.stopped_by is not None:
        return _say_stopped(result)
    if result.was_finished and report.scored_step(workdir) == result.step:
        _say(f"This run is finished: all {result.step} steps are done, see {workdir}.")
        return 0
    if last is None or quick != spec:
        last = make_score(config, model, mesh, held_out, spec)(result.params)
    _report(config, workdir, last, held_out, spec, result.step)
    return 0


def evaluate_only(config: ConfigDict, workdir: Path) -> int:
    """Scores the held-out videos with the workdir's checkpoint, or else with init_from's weights.

    Raises:
        InputError: neither is there, or it is of another model.
    """
    weights = factory.weights_to_evaluate(config, workdir)
    held_out = factory.open_split(config, workdir, "eval", weights.label_names)
    model = factory.build_model(config, len(held_out.label_names))
    mesh = mesh_of(config)
    model = factory.split_over(mesh, config, model)
    params = weights.load(model)
    params = jax.device_put(params, tree_shardings(params, mesh, default_rules(mesh, params)))
    spec = factory.clip_spec(config)
    score = make_score(config, model, mesh, held_out, spec)
    _report(config, workdir, score(params), held_out, spec, weights.step)
    return 0


def make_score(
    config: ConfigDict, model: models.SwinTransformer3D, mesh: Mesh, source: Source, spec: ClipSpec
) -> Callable[[Any], AnyEvaluation]:
    """The function from parameters to the evaluation of all of `source`; it compiles once."""
    views, task = config.eval.views_per_pass, task_of(config)
    step = make_eval_step(model, views, task, mesh, config.train.autotune)
    # Padding makes every batch size exact, so it may as well divide over the devices.
    devices = batch_parts(mesh)
    batch_size = math.ceil(config.eval.batch_size / devices) * devices
    pipeline = load_pipeline()

    def score(params: Any) -> AnyEvaluation:
        batches = pipeline.eval_batches(
            source, spec, batch_size=batch_size, **_reading(config, pipeline, mesh)
        )
        place = functools.partial(place_batch, mesh=mesh, window_over=config.mesh.window_over)
        return evaluate(step, params, batches, num_examples=len(source), place=place)

    return score


def _train_batches(
    config: ConfigDict,
    workdir: Path,
    mesh: Mesh,
    source: Source,
    order: Mapping[str, Any],
    bad_videos: BadVideos,
    start_step: int,
) -> Iterator[Mapping[str, np.ndarray]]:
    # Called when the workdir's checkpoint, if any, is known to be of this config's model.
    if jax.process_index() == 0:
        _write_json(workdir / "config.json", config.to_dict())
        write_label_names(workdir / "label_names.txt", source.label_names)
    pipeline = load_pipeline()
    return pipeline.train_batches(
        source,
        factory.clip_spec(config),
        start_step=start_step,
        bad_videos=bad_videos,
        **order,
        **_reading(config, pipeline, mesh),
    )


def load_pipeline() -> ModuleType:
    """`vswin_jax.data.pipeline.pipeline`, and TensorFlow without what it says while it loads."""
    # Importing TensorFlow takes seconds, which a wrong argument should not have to wait for.
    with _silent_import():
        from vswin_jax.data.pipeline import pipeline
    return pipeline


@contextlib.contextmanager
def _silent_import() -> Iterator[None]:
    """Hides what TensorFlow's C++ writes to stderr while it loads; it has no switch for that."""
    sys.stderr.flush()
    stderr = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


def _reading(config: ConfigDict, pipeline: ModuleType, mesh: Mesh) -> dict[str, int]:
    index, count = batch_share(mesh)
    return {
        "process_index": index,
        "process_count": count,
        "threads": config.data.threads or pipeline.AUTOTUNE,
        "processes": choose_processes(config.data.processes),
        "prefetch": config.data.prefetch,
    }


def _report(
    config: ConfigDict,
    workdir: Path,
    evaluation: AnyEvaluation,
    source: Source,
    spec: ClipSpec,
    step: int | None,
) -> None:
    if jax.process_index() != 0:
        return
    directory = workdir / "evaluation"
    names = [source[index].name for index in range(len(source))]
    report.draw_predictions(directory / "predictions.png", evaluation, source, spec)
    if (workdir / "metrics.jsonl").exists():
        report.draw_training(workdir, task_of(config).measures)
    extra = {"step": step, "views": f"{spec.clips}x{spec.crops}", "config": config.name}
    evaluation.save(directory, names, source.label_names, extra)
    _say(f"{report.describe(config.name, evaluation, spec)}; see {directory}")


def _say_stopped(result: Trained) -> int:
    number = result.stopped_by or 0
    name = signal.Signals(number).name
    _say(
        f"{name} stopped this run after step {result.step} of {result.total_steps}, which is "
        f"saved: the same command goes on from there."
    )
    return 128 + number


def _say(text: str) -> None:
    if jax.process_index() == 0:
        print(text, flush=True)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        partial.write_text(json.dumps(content, indent=2) + "\n")


@contextlib.contextmanager
def _log_to_stderr() -> Iterator[None]:
    """Shows the project's own log, with the time; the libraries keep theirs to warnings."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%H:%M:%S"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.propagate = True


def main() -> int:
    """Runs the command line of this process; a status other than 0 ends the process at once.

    Threads that still compile are not waited for then, nor is a device whose peers are gone.
    """
    try:
        status = run(sys.argv[1:])
    except Exception:
        traceback.print_exc()
        status = 1
    if status:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


if __name__ == "__main__":
    sys.exit(main())
