"""Saving, restoring and selecting checkpoints."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import linen as nn
from optim_settings import optim_settings

from vswin_jax.checkpoint import Checkpoints, check_matches, load_for_inference
from vswin_jax.errors import InputError
from vswin_jax.models import init_params
from vswin_jax.sharding.mesh import REPLICATED, make_mesh
from vswin_jax.training.optimizer import make_optimizer
from vswin_jax.training.state import TrainState, abstract_state, create_state
from vswin_jax.training.steps import TrainStep, make_train_step

METADATA = {"config": {"model": {"name": "swin_tiny"}}, "label_names": ["up", "down"]}


class Toy(nn.Module):
    """A video classifier that compiles in a second, with the interface of the real model."""

    classes: int = 5
    patch_size: tuple[int, int, int] = (2, 4, 4)

    @nn.compact
    def __call__(self, clips: jax.Array, train: bool = False) -> jax.Array:
        maps = nn.gelu(nn.Conv(64, self.patch_size, self.patch_size, name="patch_embed")(clips))
        pooled = nn.Dropout(0.5)(maps.mean((1, 2, 3)), deterministic=not train)
        return nn.Dense(self.classes, name="head")(pooled)


class Run:
    """A model with its training step and its state, as the training loop uses them."""

    def __init__(
        self, classes: int = 5, *, ema: bool = True, moment_dtype: str = "float32"
    ) -> None:
        self.model = Toy(classes)
        shapes = jax.eval_shape(lambda key: init_params(self.model, key), jax.random.key(0))
        settings = optim_settings(learning_rate=1e-2, clip_norm=1.0)
        self.optimizer = make_optimizer(
            settings, lambda step: 1.0 / (1.0 + step), shapes, moment_dtype=moment_dtype
        )
        self.layout = (self.model, self.optimizer)
        self.mesh = make_mesh(devices=jax.devices()[:1])
        self.ema = ema
        self.step: TrainStep = make_train_step(
            self.model, self.optimizer, seed=0, num_classes=classes, ema_decay=0.9
        )

    def fresh(self) -> TrainState:
        key = jax.random.key(0)
        return create_state(*self.layout, key, self.mesh, REPLICATED, ema=self.ema)

    def abstract(self) -> TrainState:
        return abstract_state(*self.layout, self.mesh, REPLICATED, ema=self.ema)

    def train(self, state: TrainState, steps: range) -> tuple[TrainState, list[float]]:
        losses = []
        for number in steps:
            rng = np.random.default_rng(number)
            batch = {
                "video": rng.integers(0, 256, (4, 1, 2, 8, 8, 3), dtype=np.uint8),
                "label": rng.integers(0, 5, 4).astype(np.int32),
                "mask": np.ones(4, np.float32),
                "flip": np.zeros(4, bool),
            }
            state, metrics = self.step(state, batch)
            losses.append(float(metrics["loss_sum"]))
        return state, losses


@pytest.fixture(scope="module")
def run() -> Run:
    return Run()


def assert_equal(ours: Any, theirs: Any) -> None:
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def save_all(directory: Path, state: TrainState, scores: dict[int, float | None]) -> None:
    with Checkpoints(directory, max_to_keep=2) as checkpoints:
        for step, score in scores.items():
            assert checkpoints.save(step, state, METADATA, score)


def test_a_restored_run_continues_bit_for_bit(run: Run, tmp_path: Path) -> None:
    state, _ = run.train(run.fresh(), range(3))
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore_latest(run.abstract()) is None
        checkpoints.save(3, state, METADATA)
        # The save is still being written while these steps donate the state's buffers.
        unbroken, expected = run.train(state, range(3, 7))
    with Checkpoints(tmp_path) as checkpoints:
        restored, metadata = checkpoints.restore_latest(run.abstract())
    assert int(restored.step) == 3
    assert metadata["label_names"] == ["up", "down"]
    resumed, losses = run.train(restored, range(3, 7))
    assert losses == expected
    assert_equal(resumed, unbroken)


@pytest.mark.long
@pytest.mark.parametrize(("saved", "requested"), [("float32", "bfloat16"), ("bfloat16", "float32")])
def test_the_first_moment_may_change_its_dtype(saved: str, requested: str, tmp_path: Path) -> None:
    """The moment is rounded or widened; everything else equals the saved state."""
    state, _ = Run(moment_dtype=saved).train(Run(moment_dtype=saved).fresh(), range(1))
    save_all(tmp_path, state, {1: None})
    with Checkpoints(tmp_path) as checkpoints:
        restored, _ = checkpoints.restore_latest(Run(moment_dtype=requested).abstract())
    adam = state.opt_state.inner[1]
    expected = jax.tree.map(lambda leaf: np.asarray(leaf.astype(requested)), adam.mu)
    inner = (state.opt_state.inner[0], adam._replace(mu=expected), *state.opt_state.inner[2:])
    assert_equal(restored, state.replace(opt_state=state.opt_state._replace(inner=inner)))
    assert restored.opt_state.inner[1].mu["head"]["kernel"].dtype == requested


def test_a_concrete_state_can_be_the_target(run: Run, tmp_path: Path) -> None:
    state, _ = run.train(run.fresh(), range(1))
    save_all(tmp_path, state, {1: None})
    with Checkpoints(tmp_path) as checkpoints:
        restored, _ = checkpoints.restore_latest(run.fresh())
    assert_equal(restored, state)


def test_a_save_is_a_snapshot(run: Run, tmp_path: Path) -> None:
    state = run.fresh()
    copies = {}
    with Checkpoints(tmp_path, max_to_keep=20) as checkpoints:
        for step in range(1, 11):
            state, _ = run.train(state, range(step, step + 1))
            copies[step] = jax.tree.map(np.array, state.params)
            checkpoints.save(step, state, METADATA)
    for step, expected in copies.items():
        params, _ = load_for_inference_raw(tmp_path / str(step))
        assert_equal(params, expected)


def load_for_inference_raw(directory: Path) -> tuple[Any, Any]:
    """Load the parameters that are not averaged, by Orbax alone."""
    with ocp.StandardCheckpointer() as reader:
        saved = reader.restore(directory / "state")
    return saved["params"], saved["ema_params"]


def test_the_latest_and_the_best_are_kept(run: Run, tmp_path: Path) -> None:
    scores = {1: None, 2: 0.5, 3: float("nan"), 4: 0.4, 5: None, 6: None}
    save_all(tmp_path, run.fresh(), scores)
    assert sorted(int(child.name) for child in tmp_path.iterdir()) == [2, 5, 6]
    with Checkpoints(tmp_path) as checkpoints:
        assert (checkpoints.best_step(), checkpoints.latest_step()) == (2, 6)
        assert not checkpoints.save(6, run.fresh(), METADATA)


CLOSED = """
import sys
import jax.numpy as jnp
from vswin_jax.checkpoint import Checkpoints

with Checkpoints(sys.argv[1]) as checkpoints:
    checkpoints.save(1, {"params": {"kernel": jnp.ones(4)}}, {})
"""


def run_script(code: str, directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, str(directory)],
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_a_process_exits_after_closing_and_its_save_is_complete(tmp_path: Path) -> None:
    done = run_script(CLOSED, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert load_for_inference(tmp_path)[1]["step"] == 1


KILLED = """
import os, signal, sys
import jax.numpy as jnp
from vswin_jax.checkpoint import Checkpoints

checkpoints = Checkpoints(sys.argv[1])
state = {"params": {"kernel": jnp.full((4,), 1.0)}}
checkpoints.save(1, state, {"label_names": []})
checkpoints.wait()
rename = os.rename
def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)
os.rename = os.replace = die
checkpoints.save(2, {"params": {"kernel": jnp.full((4,), 2.0)}}, {"label_names": []})
checkpoints.wait()
"""


def test_a_kill_during_a_save_leaves_the_one_before(tmp_path: Path) -> None:
    done = run_script(KILLED, tmp_path)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert any(child.name.startswith("2.") for child in tmp_path.iterdir()), "nothing was cut short"
    params, metadata = load_for_inference(tmp_path)
    np.testing.assert_array_equal(params["kernel"], np.ones(4))
    assert metadata["step"] == 1
    with Checkpoints(tmp_path) as checkpoints:
        target = {"params": {"kernel": jax.ShapeDtypeStruct((4,), jnp.float32)}}
        restored, _ = checkpoints.restore_latest(target)
        checkpoints.save(2, restored, METADATA)
    assert sorted(child.name for child in tmp_path.iterdir()) == ["1", "2"]


def test_inference_loads_the_latest_averaged_parameters_by_any_path(
    run: Run, tmp_path: Path
) -> None:
    state, _ = run.train(run.fresh(), range(2))
    save_all(tmp_path / "checkpoints", state, {2: 0.5, 3: 0.1})
    for path in ("", "checkpoints", "checkpoints/3"):
        params, metadata = load_for_inference(tmp_path / path)
        assert_equal(params, jax.tree.map(np.asarray, state.ema_params))
        assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(params))
        assert metadata["step"] == 3
        assert metadata["config"] == METADATA["config"]
    assert load_for_inference(tmp_path / "checkpoints/2")[1]["step"] == 2
    assert load_for_inference(tmp_path, "best")[1]["step"] == 2


def test_without_scores_or_average_inference_loads_the_latest_parameters(tmp_path: Path) -> None:
    run = Run(ema=False)
    state = run.fresh()
    save_all(tmp_path, state, {1: None, 2: None})
    params, metadata = load_for_inference(str(tmp_path))
    assert metadata["step"] == 2
    assert_equal(params, jax.tree.map(np.asarray, state.params))


def test_paths_without_a_checkpoint_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected at '.*absent', but nothing is there"):
        load_for_inference(tmp_path / "absent")
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(InputError, match=r"No checkpoint was found in '.*checkpoints'"):
        load_for_inference(tmp_path)
    (tmp_path / "file.pth").write_bytes(b"torch")
    with pytest.raises(InputError, match=r"No checkpoint was found .* or convert this file"):
        load_for_inference(tmp_path / "file.pth")


def test_a_checkpoint_of_another_program_is_refused(tmp_path: Path) -> None:
    with ocp.CheckpointManager(tmp_path) as manager:
        items = {
            "state": ocp.args.StandardSave({"params": {"kernel": jnp.ones(3)}}),
            "metadata": ocp.args.JsonSave({"program": "another"}),
        }
        manager.save(1, args=ocp.args.Composite(**items))
    with pytest.raises(InputError, match="was written by a program other than"):
        load_for_inference(tmp_path)


@pytest.mark.parametrize("damaged", ["metadata/metadata", "state/_METADATA", "state", "metadata"])
@pytest.mark.parametrize("how", ["cut", "remove"])
def test_a_damaged_checkpoint_is_named(damaged: str, how: str, run: Run, tmp_path: Path) -> None:
    save_all(tmp_path, run.fresh(), {1: None})
    for path in [tmp_path / "1" / damaged, *(tmp_path / "1" / damaged).rglob("*")]:
        if path.is_file() and how == "cut":
            path.write_bytes(path.read_bytes()[:7])
        elif path.is_file():
            path.unlink()
    if how == "remove" and (tmp_path / "1" / damaged).is_dir():
        shutil.rmtree(tmp_path / "1" / damaged)
    with pytest.raises(InputError) as refusal:
        load_for_inference(tmp_path / "1")
    assert str(tmp_path / "1") in str(refusal.value)
    with pytest.raises(InputError, match=f"No checkpoint in '{tmp_path}' is intact"):
        Checkpoints(tmp_path)


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        ({"classes": 7}, "'ema_params/head/bias' has shape (5,) in it and (7,) in this model"),
        (
            {"ema": False},
            "it has 'ema_params/head/bias' of shape (5,), which this model does not have",
        ),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_with_the_difference(
    other: dict[str, Any], difference: str, run: Run, tmp_path: Path
) -> None:
    save_all(tmp_path, run.fresh(), {1: None})
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(InputError) as refusal:
        checkpoints.restore_latest(Run(**other).abstract())
    assert difference in str(refusal.value)


def test_parameters_of_another_model_are_refused_with_the_difference() -> None:
    shapes = {"head": {"bias": np.zeros(5), "kernel": np.zeros((3, 5))}}
    check_matches(shapes, jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, "f4"), shapes))
    with pytest.raises(InputError, match=r"'head/bias' has shape \(5,\) in it and \(4,\)"):
        check_matches(shapes, {"head": {"bias": np.zeros(4), "kernel": np.zeros((3, 4))}})
    with pytest.raises(InputError, match="it has no 'norm/scale', which this model has"):
        check_matches(shapes, shapes | {"norm": {"scale": np.zeros(3)}})


def test_orbax_logs_nothing(run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_all(tmp_path, run.fresh(), {1: None})
    load_for_inference(tmp_path)
    assert not [record for record in caplog.records if "orbax" in record.pathname]
    assert json.loads((tmp_path / "1" / "metadata" / "metadata").read_text())["step"] == 1
