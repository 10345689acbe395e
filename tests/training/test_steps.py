import functools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cheap_programs import device_environment
from flax import linen as nn
from optim_settings import optim_settings

from vswin_jax.errors import InputError
from vswin_jax.models import init_params
from vswin_jax.sharding.mesh import REPLICATED, make_mesh
from vswin_jax.training.optimizer import make_optimizer
from vswin_jax.training.state import TrainState, create_state
from vswin_jax.training.step_inputs import (
    PIXEL_MEAN,
    PIXEL_STD,
    Batch,
    prepare_inputs,
    preprocess,
    step_keys,
)
from vswin_jax.training.steps import make_eval_step, make_train_step
from vswin_jax.training.task import MULTI_LABEL, SINGLE_LABEL, task_from_config

CLASSES = 5


class Toy(nn.Module):
    """A video classifier that compiles in a second; its parameter paths are like the real ones."""

    patch_size: tuple[int, int, int] = (2, 4, 4)
    frozen_stages: int = -1
    dropout: float = 0.0

    @nn.compact
    def __call__(self, clips: jax.Array, train: bool = False) -> jax.Array:
        maps = nn.Conv(8, self.patch_size, self.patch_size, name="patch_embed")(clips)
        maps = nn.gelu(nn.Dense(8, name="layers_0")(nn.LayerNorm(name="norm")(maps)))
        pooled = nn.Dropout(self.dropout)(maps.mean((1, 2, 3)), deterministic=not train)
        return nn.Dense(CLASSES, name="head")(pooled)


def optimizer_for(
    model: nn.Module, learning_rate: float = 3e-2
) -> optax.GradientTransformationExtraArgs:
    settings = optim_settings(learning_rate=learning_rate)
    shapes = jax.eval_shape(lambda key: init_params(model, key), jax.random.key(0))
    return make_optimizer(
        settings, lambda step: 1.0 / (1.0 + step), shapes, frozen_stages=model.frozen_stages
    )


@functools.cache
def initial_params(model: nn.Module) -> Any:
    """Initialise the parameters once: that compiles for longer than a step does."""
    return jax.tree.map(np.asarray, init_params(model, jax.random.key(0)))


def fresh_state(model: nn.Module, *, ema: bool = False) -> TrainState:
    key, mesh = jax.random.key(0), make_mesh(devices=jax.devices()[:1])
    params = initial_params(model)
    return create_state(model, optimizer_for(model), key, mesh, REPLICATED, params, ema=ema)


def batch_of(rows: int = 4, views: int = 1, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "video": rng.integers(0, 256, (rows, views, 4, 16, 16, 3), dtype=np.uint8),
        "label": rng.integers(0, CLASSES, rows).astype(np.int32),
        "mask": np.ones(rows, np.float32),
        "id": np.arange(rows, dtype=np.int32),
        "flip": rng.random(rows) < 0.5,
    }


def run_steps(
    batches: list[dict[str, np.ndarray]],
    model: nn.Module | None = None,
    *,
    ema: bool = False,
    **options: Any,
) -> tuple[TrainState, list[dict[str, float]]]:
    model = model or Toy()
    optimizer = optimizer_for(model)
    state = fresh_state(model, ema=ema)
    step = make_train_step(model, optimizer, num_classes=CLASSES, **({"seed": 0} | options))
    reports = []
    for batch in batches:
        state, metrics = step(state, batch)
        reports.append({name: float(value) for name, value in metrics.items()})
    return state, reports


def assert_trees_close(ours: Any, theirs: Any, **tolerance: float) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), ours, theirs)


def test_preprocess_flips_and_normalises() -> None:
    video = batch_of(2)["video"][:, 0]
    ours = preprocess(video, jnp.asarray([False, True]))
    expected = (video.astype(np.float64) - PIXEL_MEAN) / PIXEL_STD
    np.testing.assert_allclose(ours[0], expected[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(ours[1], expected[1][:, :, ::-1], rtol=1e-5, atol=1e-5)
    assert preprocess(video, jnp.asarray([False, True]), jnp.bfloat16).dtype == jnp.bfloat16


def test_training_learns_a_batch_and_reports_it() -> None:
    batch = batch_of()
    state, reports = run_steps([batch] * 12)
    assert int(state.step) == 12
    losses = [report["loss_sum"] / report["count"] for report in reports]
    assert losses[-1] < 0.8 * losses[0]
    assert reports[0]["count"] == 4
    assert reports[2]["learning_rate"] == pytest.approx(3e-2 / 3)
    assert reports[0]["grad_norm"] > 0
    assert 0 <= reports[0]["top1_correct"] <= 4


@pytest.mark.long
def test_the_training_loss_is_that_of_the_prepared_inputs() -> None:
    """Compare with the loss of the clips and targets of `prepare_inputs` for the step's key."""
    model, batch = Toy(), batch_of()
    options = {
        "num_classes": CLASSES,
        "label_smoothing": 0.1,
        "mixup_alpha": 0.8,
        "cutmix_alpha": 1.0,
        "random_erasing_rate": 0.5,
    }
    step = make_train_step(model, optimizer_for(model), seed=7, **options)
    _, metrics = step(fresh_state(model).replace(step=jnp.int32(5)), batch)

    @jax.jit
    def loss_sum(batch: Batch) -> jax.Array:
        inputs = prepare_inputs(step_keys(7, 5)[0], batch, **options)
        logits = model.apply({"params": initial_params(model)}, inputs.clips)
        return optax.softmax_cross_entropy(logits, inputs.targets).sum()

    assert float(metrics["loss_sum"]) == pytest.approx(float(loss_sum(batch)), rel=1e-5)


def test_accumulated_gradients_are_those_of_the_whole_batch() -> None:
    batches = [batch_of(8, seed=seed) for seed in range(2)]
    batches[1]["mask"][5:] = 0.0
    options = {"mixup_alpha": 0.8, "label_smoothing": 0.1}
    whole, at_once = run_steps(batches, **options)
    parts, in_parts = run_steps(batches, grad_accum_steps=4, **options)
    for ours, theirs in zip(in_parts, at_once, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)
    # Adam's first steps divide by the gradient's size, so compare moments and not parameters.
    assert_trees_close(parts.opt_state.inner, whole.opt_state.inner, rtol=1e-3, atol=1e-7)


def test_a_batch_that_does_not_split_into_micro_batches_is_rejected() -> None:
    with pytest.raises(InputError, match="A batch of 4 does not split into 3"):
        run_steps([batch_of(4)], grad_accum_steps=3)


def test_micro_batches_that_leave_devices_idle_are_rejected() -> None:
    mesh = jax.sharding.AbstractMesh((2, 2, 2), ("data", "fsdp", "model"))
    message = (
        "micro-batch of 2 clips does not divide into 4 equal shards, the product of the mesh's "
        "batch axes: lower train.grad_accum_steps to 2, or"
    )
    with pytest.raises(InputError, match=message):
        run_steps([batch_of(8)], grad_accum_steps=4, mesh=mesh)
    # No number of micro-batches divides six clips over four devices.
    message = "into 4 equal shards, .* batch axes: make the batch size a multiple of"
    with pytest.raises(InputError, match=message):
        run_steps([batch_of(6)], grad_accum_steps=3, mesh=mesh)


def test_padded_rows_change_nothing() -> None:
    short = batch_of(3)
    padded = {key: np.concatenate([rows, rows[:1]]) for key, rows in short.items()}
    padded["mask"][3] = 0.0
    padded["video"][3] = 255
    ours, ours_reports = run_steps([padded])
    theirs, reports = run_steps([short])
    assert ours_reports[0] == pytest.approx(reports[0], rel=1e-4)
    assert_trees_close(ours.opt_state.inner, theirs.opt_state.inner, rtol=1e-3, atol=1e-7)


@pytest.mark.long
def test_the_random_numbers_of_a_step_follow_from_seed_and_step() -> None:
    model = Toy(dropout=0.5)
    optimizer = optimizer_for(model)
    state = fresh_state(model)

    steps = {
        seed: make_train_step(model, optimizer, seed=seed, num_classes=CLASSES) for seed in (1, 2)
    }

    def loss(seed: int, step: int) -> float:
        at_step = jax.tree.map(jnp.copy, state).replace(step=jnp.int32(step))
        return float(steps[seed](at_step, batch_of())[1]["loss_sum"])

    assert loss(1, 5) == loss(1, 5)
    assert len({loss(1, 5), loss(1, 6), loss(2, 5)}) == 3


def test_the_average_of_the_parameters_follows_them() -> None:
    batch = batch_of()
    start, _ = run_steps([], ema=True)
    first = jax.tree.map(np.asarray, start.params)
    state, _ = run_steps([batch], ema=True, ema_decay=0.75)
    expected = jax.tree.map(lambda old, new: 0.75 * old + 0.25 * new, first, state.params)
    assert_trees_close(state.ema_params, expected, rtol=1e-5, atol=1e-7)


def test_a_step_that_is_not_finite_leaves_parameters_and_average() -> None:
    model = Toy()
    optimizer = optimizer_for(model)
    state = fresh_state(model, ema=True)
    state.params["head"]["bias"] = state.params["head"]["bias"].at[0].set(jnp.inf)
    before = jax.tree.map(np.array, (state.params, state.ema_params))
    step = make_train_step(model, optimizer, seed=0, num_classes=CLASSES, ema_decay=0.5)
    for skipped in (1, 2):
        state, metrics = step(state, batch_of())
        assert int(metrics["skipped_total"]) == int(metrics["skipped_in_a_row"]) == skipped
    jax.tree.map(np.testing.assert_array_equal, (state.params, state.ema_params), before)
    assert int(state.step) == 2


def test_frozen_stages_stay_as_they_were() -> None:
    model = Toy(frozen_stages=1)
    start, _ = run_steps([], model)
    before = jax.tree.map(np.asarray, start.params)
    state, _ = run_steps([batch_of()] * 2, model)
    for name in ("patch_embed", "layers_0"):
        jax.tree.map(np.testing.assert_array_equal, state.params[name], before[name])
    assert not np.array_equal(state.params["head"]["kernel"], before["head"]["kernel"])


def view_by_view(model: nn.Module, params: Any, batch: Batch) -> np.ndarray:
    flip = jnp.asarray(batch["flip"])
    views = [
        jax.nn.softmax(model.apply({"params": params}, preprocess(batch["video"][:, v], flip)))
        for v in range(batch["video"].shape[1])
    ]
    return np.mean(views, axis=0)


@pytest.mark.long
@pytest.mark.parametrize(("views", "views_per_pass"), [(5, 2), (5, 5), (6, 4), (1, 4)])
def test_views_are_averaged_as_probabilities_for_any_grouping(
    views: int, views_per_pass: int
) -> None:
    model = Toy()
    params = initial_params(model)
    batch = batch_of(3, views)
    result = make_eval_step(model, views_per_pass)(params, batch)
    expected = view_by_view(model, params, batch)
    np.testing.assert_allclose(result["probabilities"], expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        result["loss"], -np.log(expected[np.arange(3), batch["label"]]), rtol=1e-4
    )


def multi_label_batch_of(rows: int = 4, views: int = 1, seed: int = 0) -> dict[str, np.ndarray]:
    """Draw a batch whose videos have sets of labels; the first has none."""
    sets = np.random.default_rng(seed).integers(0, 2, (rows, CLASSES)).astype(np.float32)
    sets[0] = 0.0
    return batch_of(rows, views, seed) | {"label": sets}


def test_training_learns_sets_of_labels_and_reports_them() -> None:
    batch = multi_label_batch_of()
    _, reports = run_steps([batch] * 12, task=MULTI_LABEL)
    losses = [report["loss_sum"] / report["count"] for report in reports]
    assert losses[0] == pytest.approx(np.log(2), abs=0.2), (
        "every class has probability 1/2 at first"
    )
    assert losses[-1] < 0.95 * losses[0]
    assert (reports[0]["count"], reports[0]["hit1_count"]) == (4, 3)
    assert "top1_correct" not in reports[0]


@pytest.mark.long
def test_the_loss_of_sets_is_that_of_blended_and_smoothed_targets() -> None:
    """Compare with the mean over classes of binary cross entropies, computed in NumPy."""
    model, batch = Toy(), multi_label_batch_of()
    options = {"num_classes": CLASSES, "label_smoothing": 0.1, "mixup_alpha": 0.8}
    inputs = prepare_inputs(
        step_keys(7, 0)[0],
        jax.tree.map(jnp.asarray, batch),
        **options,
        cutmix_alpha=0.0,
        random_erasing_rate=0.0,
        task=MULTI_LABEL,
    )
    smooth = 0.9 * batch["label"] + 0.1 / CLASSES
    # The first row's set is empty, so its share of its partner, the last row, shows the weight.
    shares = np.asarray(inputs.targets[0] - smooth[0]) / (smooth[-1] - smooth[0] + 1e-9)
    share = 1.0 - shares[batch["label"][-1] > 0].mean()
    assert 0.01 < share < 0.99
    blended = share * smooth + (1 - share) * np.roll(smooth, 1, 0)
    np.testing.assert_allclose(inputs.targets, blended, rtol=1e-5)
    step = make_train_step(model, optimizer_for(model), seed=7, task=MULTI_LABEL, **options)
    _, metrics = step(fresh_state(model), batch)
    logits = np.asarray(model.apply({"params": initial_params(model)}, inputs.clips), np.float64)
    p = 1 / (1 + np.exp(-logits))
    expected = -(blended * np.log(p) + (1 - blended) * np.log(1 - p)).mean(1).sum()
    assert float(metrics["loss_sum"]) == pytest.approx(expected, rel=1e-4)


@pytest.mark.long
def test_accumulated_sets_and_padding_change_nothing() -> None:
    batch = multi_label_batch_of(8)
    batch["mask"][5:] = 0.0
    options = {"mixup_alpha": 0.8, "label_smoothing": 0.1, "task": MULTI_LABEL}
    whole, at_once = run_steps([batch], **options)
    parts, in_parts = run_steps([batch], grad_accum_steps=4, **options)
    assert in_parts[0] == pytest.approx(at_once[0], rel=1e-4)
    assert_trees_close(parts.opt_state.inner, whole.opt_state.inner, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize(("views", "views_per_pass"), [(5, 2), (1, 4)])
def test_views_of_sets_are_averaged_as_sigmoids(views: int, views_per_pass: int) -> None:
    model = Toy()
    params, batch = initial_params(model), multi_label_batch_of(3, views)
    flip = jnp.asarray(batch["flip"])
    logits = [
        np.asarray(model.apply({"params": params}, preprocess(batch["video"][:, v], flip)))
        for v in range(views)
    ]
    p = np.mean([1 / (1 + np.exp(-z.astype(np.float64))) for z in logits], axis=0)
    result = make_eval_step(model, views_per_pass, MULTI_LABEL)(params, batch)
    np.testing.assert_allclose(result["probabilities"], p, rtol=1e-4)
    y = batch["label"]
    losses = -(y * np.log(p) + (1 - y) * np.log(1 - p)).mean(1)
    np.testing.assert_allclose(result["loss"], losses, rtol=1e-4)


def test_the_loss_of_a_confident_view_is_finite() -> None:
    """Take sigmoids of 200 and -200, which are 1 and 0 in float32; their logarithms are finite."""
    scores = jnp.asarray([[[200.0, -200.0]]])
    found = MULTI_LABEL.average_views(scores, jnp.asarray([[0.0, 1.0]]))
    np.testing.assert_allclose(found["probabilities"], [[1.0, 0.0]], atol=1e-7)
    np.testing.assert_allclose(found["loss"], [200.0], rtol=1e-6)


def test_labels_of_another_task_or_size_are_rejected() -> None:
    single, sets = batch_of(), multi_label_batch_of()
    narrow = sets | {"label": sets["label"][:, :-1]}
    for batch, task in ((single, MULTI_LABEL), (narrow, MULTI_LABEL), (sets, SINGLE_LABEL)):
        with pytest.raises(InputError, match=r"labels of shape \(4.*data\.multi_label"):
            run_steps([batch], task=task)
        with pytest.raises(InputError, match=r"labels of shape \(4.*data\.multi_label"):
            make_eval_step(Toy(), task=task)(initial_params(Toy()), batch)


def test_task_of_a_config() -> None:
    assert task_from_config({"data": {}}) is SINGLE_LABEL, "a checkpoint older than the field"
    assert task_from_config({"data": {"multi_label": False}}) is SINGLE_LABEL
    assert task_from_config({"data": {"multi_label": True}}) is MULTI_LABEL
    for task, dtype in ((SINGLE_LABEL, np.int32), (MULTI_LABEL, np.float32)):
        labels = task.blank_labels(2, 3)
        assert labels.dtype == dtype
        assert not labels.any()


DEVICES = """
import json, sys
import jax
# The folder of this test and that of the modules that all tests share.
sys.path[:0] = sys.argv[1:3]
import test_steps
from vswin_jax.sharding.mesh import default_rules, make_mesh, place_batch, tree_shardings
from vswin_jax.training.state import abstract_state, create_state
from vswin_jax.training.steps import make_eval_step, make_train_step

kind = sys.argv[3]
task = test_steps.MULTI_LABEL if kind == "sets" else test_steps.SINGLE_LABEL
batch_of = test_steps.multi_label_batch_of if kind == "sets" else test_steps.batch_of
model = test_steps.Toy()
optimizer = test_steps.optimizer_for(model)
options = {"seed": 0, "num_classes": test_steps.CLASSES, "ema_decay": 0.9, "task": task}
options |= {"mixup_alpha": 0.8, "random_erasing_rate": 0.5, "grad_accum_steps": 2}
one = make_mesh(devices=jax.devices()[:1])
meshes = {"data": make_mesh(), "one": one, "fsdp": make_mesh(fsdp=4)}
results = {}
for name, mesh in meshes.items():
    params = test_steps.initial_params(model)
    rules = default_rules(mesh, params)
    state = create_state(
        model, optimizer, jax.random.key(0), mesh, rules, params, ema=True
    )
    layout = jax.tree.map(lambda leaf: leaf.sharding, state)
    step = make_train_step(model, optimizer, state_shardings=layout, **options)
    losses = []
    for seed in range(3):
        batch = place_batch(batch_of(16, seed=seed), mesh)
        if name == "data" and not seed:
            text = step.lower(state, batch).compile().as_text()
            assert "all-to-all" not in text and "all-gather" not in text, "clips are moved"
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss_sum"] / metrics["count"]))
    assert jax.tree.map(lambda leaf: leaf.sharding, state) == layout, "the layout has changed"
    batch = place_batch(batch_of(8, 3), mesh)
    losses += make_eval_step(model, 2, task)(state.ema_params, batch)["loss"].tolist()
    results[name] = losses
kernel = state.params["head"]["kernel"]
assert all(shard.data.size * 4 == kernel.size for shard in kernel.addressable_shards)
print(json.dumps(results))
"""


@pytest.mark.long
@pytest.mark.parametrize("model", ["toy", "sets"])
def test_losses_are_the_same_on_one_and_on_eight_devices(model: str) -> None:
    """Accumulate gradients; `test_program_layouts.py` has other layouts and a real model."""
    environment = device_environment(8)
    folder = Path(__file__).parent
    command = [sys.executable, "-c", DEVICES, str(folder), str(folder.parent), model]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout.splitlines()[-1])
    for layout in results.values():
        np.testing.assert_allclose(layout, results["one"], rtol=1e-5)
