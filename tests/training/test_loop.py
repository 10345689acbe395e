"""Training with a small real model, real Orbax directories and synthetic batches."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from vswin_jax.checkpoint import Checkpoints, load_for_inference
from vswin_jax.errors import InputError
from vswin_jax.models import SwinTransformer3D, create_model, init_params
from vswin_jax.reporting.goodput import CATEGORIES
from vswin_jax.reporting.metrics_file import read_metrics
from vswin_jax.training import loop as loop_module
from vswin_jax.training import setup
from vswin_jax.training.task import MULTI_LABEL
from vswin_jax.training.train import TrainResult, train

NUM_EXAMPLES = 8
# Every run has the same length, so that the compiled step, which knows it, can be shared.
STEPS = 5
MODEL: dict[str, Any] = {
    "embed_dim": 4,
    "depths": (1,),
    "num_heads": (1,),
    "window_size": (2, 2, 2),
    "patch_size": (2, 4, 4),
    "drop_path_rate": 0.0,
}


def settings(**changes: Any) -> SimpleNamespace:
    """Return a config that has all that `train` needs, without ml_collections."""
    train_settings = {
        "batch_size": 2,
        "duration": f"{STEPS} steps",
        "grad_accum_steps": 1,
        "log_every": "1 steps",
        "eval_every": "2 steps",
        "checkpoint_every": "2 steps",
        "max_to_keep": 2,
        "ema_decay": 0.5,
        "max_bad_steps": 1,
        "hang_after": 10.0,
        "autotune": False,
        **changes,
    }
    return SimpleNamespace(
        seed=0,
        train=SimpleNamespace(**train_settings),
        optim=SimpleNamespace(
            learning_rate=0.1,
            weight_decay=0.05,
            b1=0.9,
            b2=0.999,
            eps=1e-8,
            groups="intended",
            backbone_multiplier=1.0,
            clip_norm=0.0,
            moment_dtype="float32",
            offload=False,
            schedule="cosine",
            warmup="0 steps",
            warmup_ratio=0.1,
        ),
        loss=SimpleNamespace(
            label_smoothing=0.1, mixup_alpha=0.0, cutmix_alpha=0.0, random_erasing=0.0
        ),
        mesh=SimpleNamespace(data=1, fsdp=1, model=1, window=1, window_over="time"),
    )


def make_batches(start_step: int) -> Iterator[dict[str, np.ndarray]]:
    step = start_step
    while True:
        rng = np.random.default_rng(step)
        yield {
            "video": rng.integers(0, 256, (2, 1, 4, 16, 16, 3), dtype=np.uint8),
            "label": rng.integers(0, 3, 2, dtype=np.int32),
            "mask": np.ones(2, np.float32),
            "id": np.arange(2, dtype=np.int32),
            "flip": np.zeros(2, bool),
        }
        step += 1


@pytest.fixture(scope="module")
def model() -> SwinTransformer3D:
    return create_model("swin_tiny", 3, "float32", **MODEL)


def run(
    config: SimpleNamespace, workdir: Path, model: SwinTransformer3D, **more: Any
) -> TrainResult:
    arguments = {"make_batches": make_batches, "num_examples": NUM_EXAMPLES, "model": model} | more
    return train(config, workdir, **arguments)


def losses(workdir: Path) -> dict[int, float]:
    return {
        entry["step"]: entry["loss"] for entry in read_metrics(workdir / "metrics.jsonl", "train")
    }


def test_a_resumed_run_has_the_losses_of_an_uninterrupted_run(
    tmp_path: Path, model: SwinTransformer3D
) -> None:
    scored: list[int] = []

    def evaluate(params: Any) -> Mapping[str, float]:
        scored.append(len(jax.tree.leaves(params)))
        return {"top1": 1.0 / len(scored), "loss": 1.0}

    whole = run(settings(), tmp_path / "whole", model, evaluate=evaluate)
    assert (whole.step, whole.total_steps, whole.was_finished) == (5, 5, False)
    assert len(scored) == 3
    assert [e["step"] for e in read_metrics(tmp_path / "whole" / "metrics.jsonl", "eval")] == [
        2,
        4,
        5,
    ]

    def until_step_three(start_step: int) -> Iterator[dict[str, np.ndarray]]:
        for step, batch in enumerate(make_batches(start_step), start_step):
            if step == 3:
                raise OSError("the disk went away")
            yield batch

    broken = tmp_path / "broken"
    with pytest.raises(OSError, match="disk"):
        run(settings(), broken, model, make_batches=until_step_three)
    asked_from: list[int] = []

    def recorded(start_step: int) -> Iterator[dict[str, np.ndarray]]:
        asked_from.append(start_step)
        return make_batches(start_step)

    again = run(settings(), broken, model, make_batches=recorded)
    assert asked_from == [2]
    assert losses(broken) == losses(tmp_path / "whole")
    assert list(losses(broken)) == [1, 2, 3, 4, 5]
    jax.tree.map(np.testing.assert_array_equal, again.params, whole.params)


@pytest.mark.long
def test_sets_of_labels_are_trained_and_scored_by_their_mean_average_precision(
    tmp_path: Path, model: SwinTransformer3D
) -> None:
    """MAP falls while top1, which is not their score, rises: the first checkpoint is the best."""
    numbers = iter((0.1, 0.2, 0.3))

    def with_sets(start_step: int) -> Iterator[dict[str, np.ndarray]]:
        for batch in make_batches(start_step):
            yield batch | {"label": np.float32([[1, 0, 1], [0, 0, 0]])}

    def evaluate(params: Any) -> Mapping[str, float]:
        number = next(numbers)
        return {"mAP": 1 - number, "top1": number}

    more = {"make_batches": with_sets, "evaluate": evaluate, "task": MULTI_LABEL}
    run(settings(max_to_keep=1), tmp_path, model, **more)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert (checkpoints.best_step(), checkpoints.latest_step()) == (2, 5)
    found = losses(tmp_path)
    assert found[1] == pytest.approx(np.log(2), abs=0.1)
    assert found[5] < found[1]
    entries = read_metrics(tmp_path / "metrics.jsonl", "train")
    assert {"loss", "hit1"} <= entries[0].keys()


@pytest.mark.long
def test_drawing_the_first_batch_of_a_new_run_changes_nothing(
    tmp_path: Path, model: SwinTransformer3D
) -> None:
    drawn: list[dict[str, np.ndarray]] = []

    def draw(batch: Mapping[str, jax.Array]) -> np.ndarray:
        drawn.append(jax.device_get(dict(batch)))
        return np.zeros((4, 6, 3), np.uint8)

    def until_step_three(start_step: int) -> Iterator[dict[str, np.ndarray]]:
        for step, batch in enumerate(make_batches(start_step), start_step):
            if step == 3:
                raise OSError("the disk went away")
            yield batch

    run(settings(), tmp_path / "plain", model)
    with pytest.raises(OSError, match="disk"):
        run(settings(), tmp_path, model, make_batches=until_step_three, draw_first=draw)
    run(settings(), tmp_path, model, draw_first=draw)
    (only,) = drawn
    first = next(make_batches(0))
    assert only.keys() == first.keys()
    jax.tree.map(np.testing.assert_array_equal, only, first)
    assert losses(tmp_path) == losses(tmp_path / "plain")
    assert list(losses(tmp_path)) == [1, 2, 3, 4, 5]


@pytest.mark.long
def test_what_was_drawn_stays_on_the_host(
    tmp_path: Path, model: SwinTransformer3D, monkeypatch: pytest.MonkeyPatch
) -> None:
    placed: list[set[str]] = []
    place = loop_module.place_batch

    def recorded(
        batch: Mapping[str, np.ndarray], mesh: Mesh, window_over: str
    ) -> dict[str, jax.Array]:
        placed.append(set(batch))
        return place(batch, mesh, window_over)

    def with_draws(start_step: int) -> Iterator[dict[str, np.ndarray]]:
        for batch in make_batches(start_step):
            yield batch | {"frames": np.zeros((2, 4), np.int32), "epoch": np.zeros(2, np.int32)}

    shown: list[set[str]] = []

    def draw(batch: Mapping[str, jax.Array]) -> np.ndarray:
        shown.append(set(batch))
        return np.zeros((4, 6, 3), np.uint8)

    monkeypatch.setattr(loop_module, "place_batch", recorded)
    run(settings(), tmp_path, model, make_batches=with_draws, draw_first=draw)
    needed = {"video", "label", "mask", "flip"}
    assert shown == [needed | {"id", "frames", "epoch"}]
    assert placed == [needed, needed, {"id", "frames", "epoch"}, *[needed] * (STEPS - 2)]
    run(settings(), tmp_path / "plain", model)
    assert losses(tmp_path) == losses(tmp_path / "plain")


def test_finished_run_is_left_alone(tmp_path: Path, model: SwinTransformer3D) -> None:
    metadata = {"config": {"a": 1}, "label_names": ["x", "y", "z"]}
    first = run(settings(), tmp_path, model, metadata=metadata)
    before = (tmp_path / "metrics.jsonl").read_bytes()

    def refused(*_: Any) -> Any:
        raise AssertionError("a finished run reads and scores nothing")

    second = run(settings(), tmp_path, model, make_batches=refused, evaluate=refused)
    assert second.was_finished
    assert second.step == STEPS
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    params, saved = load_for_inference(tmp_path)
    assert saved["label_names"] == ["x", "y", "z"]
    jax.tree.map(np.testing.assert_array_equal, params, jax.device_get(first.params))


@pytest.mark.long
def test_starts_from_given_weights(tmp_path: Path, model: SwinTransformer3D) -> None:
    given = [init_params(model, jax.random.key(seed)) for seed in (0, 7)]
    run(settings(), tmp_path / "drawn", model)
    run(settings(), tmp_path / "same", model, initial_params=lambda: given[0])
    run(settings(), tmp_path / "other", model, initial_params=lambda: given[1])
    assert losses(tmp_path / "same") == losses(tmp_path / "drawn")
    assert losses(tmp_path / "other")[1] != losses(tmp_path / "drawn")[1]


@pytest.mark.long
def test_checkpoint_of_another_model(tmp_path: Path, model: SwinTransformer3D) -> None:
    run(settings(), tmp_path, model)
    wider = create_model("swin_tiny", 3, "float32", **(MODEL | {"embed_dim": 6}))
    with pytest.raises(InputError, match="shape"):
        run(settings(), tmp_path, wider)


def test_divergence_is_fatal_after_a_few_steps(tmp_path: Path, model: SwinTransformer3D) -> None:
    broken = jax.tree.map(lambda leaf: leaf * np.nan, init_params(model, jax.random.key(0)))
    with pytest.raises(InputError, match=r"diverged.*last 2 steps.*learning_rate"):
        run(settings(), tmp_path, model, initial_params=lambda: broken)
    entries = read_metrics(tmp_path / "metrics.jsonl", "train")
    assert [entry["skipped_in_a_row"] for entry in entries] == [1, 2]


def test_batches_that_end(tmp_path: Path, model: SwinTransformer3D) -> None:
    def one(start_step: int) -> Iterator[dict[str, np.ndarray]]:
        yield next(make_batches(start_step))

    with pytest.raises(
        InputError, match="Expected 5 training batches but the iterator ended after step 1:"
    ):
        run(settings(), tmp_path, model, make_batches=one)


def test_sigterm_saves_and_leaves(tmp_path: Path, model: SwinTransformer3D) -> None:
    handler = signal.getsignal(signal.SIGTERM)

    def killed_at_step_three(start_step: int) -> Iterator[dict[str, np.ndarray]]:
        for step, batch in enumerate(make_batches(start_step), start_step):
            if step == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    config = settings(checkpoint_every="8 steps", eval_every="8 steps")
    stopped = run(config, tmp_path, model, make_batches=killed_at_step_three)
    assert (stopped.step, stopped.stopped_by) == (3, signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is handler
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.latest_step() == 3
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 3


@pytest.mark.long
def test_the_ledger_covers_all_starts_of_a_run(tmp_path: Path, model: SwinTransformer3D) -> None:
    """Killed in step 4, two steps after the last save; nothing but the start comes before."""

    def until_step_three(start_step: int) -> Iterator[dict[str, np.ndarray]]:
        for step, batch in enumerate(make_batches(start_step), start_step):
            if step == 3:
                raise OSError("the disk went away")
            yield batch

    before = time.monotonic()
    with pytest.raises(OSError, match="disk"):
        run(settings(), tmp_path, model, make_batches=until_step_three)
    first = json.loads((tmp_path / "goodput.json").read_text())
    run(settings(), tmp_path, model, begun=time.monotonic() - 1000.0)
    wall = time.monotonic() - before + 1000.0
    both = json.loads((tmp_path / "goodput.json").read_text())
    assert list(first["step_seconds_when_saved"]) == ["0", "2"]
    assert list(both["step_seconds_when_saved"]) == ["0", "2", "4", "5"]
    assert first["seconds"]["lost"] == 0.0 < first["seconds"]["compile"]
    useful = first["step_seconds_when_saved"]["2"]
    assert both["seconds"]["lost"] == pytest.approx(first["seconds"]["steps"] - useful)
    assert both["seconds"]["restart"] > 1000.0
    # Only what comes before the ledger's begin and after its end is left out.
    assert wall - 60.0 < sum(both["seconds"].values()) <= wall
    for entry in read_metrics(tmp_path / "metrics.jsonl", "goodput"):
        assert sum(entry[name] for name in CATEGORIES) == pytest.approx(1.0)


@pytest.mark.long
def test_nothing_but_batches_goes_to_the_device(
    tmp_path: Path, model: SwinTransformer3D, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = setup.make_train_step

    def with_a_stray_array(*arguments: Any, **more: Any) -> Any:
        step = make(*arguments, **more)

        def stray(state: Any, batch: Any) -> Any:
            return step(state, batch | {"mask": np.ones(2, np.float32)})

        stray.lower = step.lower
        return stray

    monkeypatch.setattr(setup, "make_train_step", with_a_stray_array)
    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        run(settings(), tmp_path, model)


def test_a_hang_is_noticed(
    tmp_path: Path, model: SwinTransformer3D, caplog: pytest.LogCaptureFixture
) -> None:
    """The third batch comes when the log has said that it does not."""

    def that_hang(start_step: int) -> Iterator[dict[str, np.ndarray]]:
        for step, batch in enumerate(make_batches(start_step), start_step):
            give_up = time.monotonic() + 120
            while step == 2 and "waiting for data, step 2" not in caplog.text:
                assert time.monotonic() < give_up
                time.sleep(0.05)
            yield batch

    assert run(settings(hang_after=0.2 / 60), tmp_path, model, make_batches=that_hang).step == STEPS
    (report,) = [line for line in caplog.messages if "waiting for data, step 2" in line][:1]
    assert "no progress for" in report
    assert "in that_hang" in report


@pytest.mark.long
def test_steps_are_traced(
    tmp_path: Path, model: SwinTransformer3D, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="vswin_jax")
    run(settings(), tmp_path, model, profile=(3, 4))
    assert "traced steps 3 to 4 of this start" in caplog.text
    assert len(list((tmp_path / "profile").rglob("*.xplane.pb"))) == 1


@pytest.mark.long
def test_runs_without_tensorflow_clu_and_ml_collections(
    tmp_path: Path, compiled_programs: Path
) -> None:
    code = f"""
import sys
absent = ("tensorflow", "tensorboard", "clu", "ml_collections", "matplotlib", "av", "cv2")
sys.modules.update(dict.fromkeys(absent))
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
import test_loop
model = test_loop.create_model("swin_tiny", 3, "float32", **test_loop.MODEL)
test_loop.run(test_loop.settings(), Path({str(tmp_path)!r}), model)
"""
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(compiled_programs)}
    subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], env=environment, check=True
    )
    assert list(losses(tmp_path)) == [1, 2, 3, 4, 5]
