"""Clips split over several devices: the losses of one device, and the expected collectives."""

import json
import math
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from cheap_programs import device_environment
from jax.sharding import AbstractMesh
from optim_settings import optim_settings

from vswin_jax.analysis.compiled_program import Collective, read_program
from vswin_jax.errors import InputError
from vswin_jax.models import SwinTransformer3D, create_model, init_params, split_clips
from vswin_jax.sharding.constraints import use_activation_mesh
from vswin_jax.sharding.mesh import default_rules, make_mesh, place_batch
from vswin_jax.training.optimizer import make_optimizer
from vswin_jax.training.state import TrainState, create_state
from vswin_jax.training.steps import TrainStep, make_eval_step, make_train_step

pytestmark = pytest.mark.long

CLASSES, STEPS, ROWS = 5, 20, 4
CLIP = (32, 32, 12)  # frames, height, width: (16, 8, 3) tokens, of which the width is padded
WINDOW = (4, 2, 2)
# (devices on data, fsdp and window, what the clip is split over, attention, remat)
LAYOUTS: dict[str, tuple[tuple[int, int, int], str, str, str]] = {
    "one": ((1, 1, 1), "time", "xla", "none"),
    "time 4": ((1, 1, 4), "time", "xla", "none"),
    "fsdp 2 x height 2": ((1, 2, 2), "height", "xla", "block"),
    "data 2 x time 4": ((2, 1, 4), "time", "chunked", "none"),
}

# The layouts whose evaluation and dropout are tested too.
THOROUGH = ("one", "fsdp 2 x height 2", "data 2 x time 4")


def swin(**changes: Any) -> SwinTransformer3D:
    settings = {
        "embed_dim": 8,
        "depths": (2, 1),
        "num_heads": (1, 2),
        "window_size": WINDOW,
        "drop_path_rate": 0.3,
        **changes,
    }
    return create_model("swin_tiny", **{"num_classes": CLASSES, **settings})


def batch_of(seed: int, views: int = 1) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "video": rng.integers(0, 256, (ROWS, views, *CLIP, 3), dtype=np.uint8),
        "label": rng.integers(0, CLASSES, ROWS).astype(np.int32),
        "mask": np.ones(ROWS, np.float32),
        "flip": rng.random(ROWS) < 0.5,
    }


def steps_of(
    name: str, params: Any
) -> tuple[SwinTransformer3D, jax.sharding.Mesh, TrainState, TrainStep]:
    (data, fsdp, window), over, attention, remat = LAYOUTS[name]
    devices = jax.devices()[: data * fsdp * window]
    mesh = make_mesh(data, fsdp, window=window, devices=devices)
    model = split_clips(swin(attention=attention, remat=remat), mesh, over, CLIP)
    settings = optim_settings(backbone_multiplier=1.0)
    optimizer = make_optimizer(settings, lambda step: 1.0, params, model.frozen_stages)
    rules = default_rules(mesh, params)
    state = create_state(model, optimizer, jax.random.key(0), mesh, rules, params, ema=True)
    step = make_train_step(
        model,
        optimizer,
        seed=0,
        num_classes=CLASSES,
        cutmix_alpha=1.0,
        random_erasing_rate=0.5,
        ema_decay=0.9,
        state_shardings=jax.tree.map(lambda leaf: leaf.sharding, state),
        mesh=mesh,
    )
    return model, mesh, state, step


def report_of(name: str, params: Any) -> dict[str, Any]:
    """Return the losses of 20 steps and of an evaluation, and the collectives of the step."""
    model, mesh, state, step = steps_of(name, params)
    over = LAYOUTS[name][1]
    batches = [place_batch(batch_of(seed), mesh, over) for seed in range(STEPS)]
    compiled = step.lower(state, batches[0]).compile()
    program = read_program(compiled)
    losses = []
    for batch in batches:
        state, metrics = compiled(state, batch)
        losses.append(float(metrics["loss_sum"] / metrics["count"]))
    others = {}
    if name in THOROUGH:
        others["evaluation"] = evaluation_of(model, mesh, over, state.ema_params)
        others["dropped"] = dropped_of(mesh, over)
    return {
        **others,
        "losses": losses,
        "temporaries": program.memory.temporaries,
        "collectives": [_described(collective) for collective in program.collectives],
    }


def evaluation_of(
    model: SwinTransformer3D, mesh: jax.sharding.Mesh, over: str, params: Any
) -> list[float]:
    """Return the losses of videos with three views each, two views at a time."""
    views = place_batch(batch_of(99, views=3), mesh, over)
    return make_eval_step(model, 2, mesh=mesh)(params, views)["loss"].tolist()


def dropped_of(mesh: jax.sharding.Mesh, over: str) -> list[float]:
    """Return the output of a block with dropout for a clip."""
    settings = {"depths": (1,), "num_heads": (1,), "drop_rate": 0.5, "num_classes": 0}
    model = split_clips(swin(**settings), mesh, over)
    params = init_params(model, jax.random.key(0))
    clips = place_batch({"video": batch_of(0)["video"] / 255}, mesh, over)["video"][:, 0]

    @jax.jit
    def drop(params: Any, clips: jax.Array) -> jax.Array:
        rngs = {"dropout": jax.random.key(1)}
        return model.apply({"params": params}, clips, True, rngs=rngs)

    return drop(params, clips).ravel().tolist()


def gradients_of(attention: str, sharding: Mapping[str, int]) -> list[float]:
    """Return the gradients of the attention of the shifted block, on a mesh of these axis sizes."""
    mesh = make_mesh(1, **sharding, devices=jax.devices()[: math.prod(sharding.values())])
    settings = {"depths": (2,), "num_heads": (2,), "window_size": (2, 2, 2), "num_classes": 0}
    model = swin(**settings, attention=attention, drop_path_rate=0.0)
    params = init_params(model, jax.random.key(0))
    split = split_clips(model, mesh, "time")
    clips = place_batch({"video": batch_of(0)["video"][:1] / 255}, mesh)["video"][:, 0]

    @jax.jit
    def gradients(params: Any, clips: jax.Array) -> Any:
        with use_activation_mesh(mesh):
            return jax.grad(lambda p: split.apply({"params": p}, clips)[0, 0])(params)

    block = gradients(params, clips)["layers_0"]["blocks_1"]["attn"]
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(block)]).tolist()


def _described(collective: Collective) -> dict[str, Any]:
    return {
        "kind": collective.kind,
        "shapes": [array.shape for array in collective.operands],
        "times": collective.times,
    }


def main() -> None:
    params = jax.tree.map(np.asarray, init_params(swin(), jax.random.key(0)))
    reports: dict[str, Any] = {name: report_of(name, params) for name in LAYOUTS}
    reports["gradients"] = {
        "one": gradients_of("xla", {"window": 1}),
        "kernels": gradients_of("pallas_tpu", {"model": 2, "window": 2}),
    }
    reports["params"] = [leaf.shape for leaf in jax.tree.leaves(params)]
    print(json.dumps(reports))


@pytest.fixture(scope="module")
def reports(once: Callable[..., Any]) -> dict[str, Any]:
    return once("window_parallel", compute)


def compute() -> dict[str, Any]:
    environment = device_environment(8)
    program = "import test_window_parallel as program; program.main()"
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        command, env=environment, cwd=Path(__file__).parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", [name for name in LAYOUTS if name != "one"])
def test_losses_are_those_of_one_device(reports: dict[str, Any], name: str) -> None:
    losses = reports["one"]["losses"]
    assert len(losses) == STEPS
    assert np.std(losses) > 1e-3, "the losses must depend on the random draws"
    np.testing.assert_allclose(reports[name]["losses"], losses, rtol=1e-5)


@pytest.mark.parametrize("name", THOROUGH[1:])
def test_evaluation_and_dropout_are_those_of_one_device(reports: dict[str, Any], name: str) -> None:
    ours, one = reports[name], reports["one"]
    assert len(one["evaluation"]) == ROWS
    np.testing.assert_allclose(ours["evaluation"], one["evaluation"], rtol=1e-5)
    assert np.std(one["dropped"]) > 1e-2
    np.testing.assert_allclose(ours["dropped"], one["dropped"], atol=1e-5)


def halos(name: str) -> Counter[tuple[int, ...]]:
    """Return the expected halo exchanges: the shift and its inverse, forward and backward.

    The shifted block has 16 x 8 x 3 tokens of 8 channels; its width is padded to 4.
    """
    (data, fsdp, _), over, _, remat = LAYOUTS[name]
    rows = ROWS // (data * fsdp)
    # Rematerialisation repeats the shift and its inverse.
    times = 6 if remat == "block" else 4
    slab = (rows, 2, 8, 4, 8) if over == "time" else (rows, 16, 1, 4, 8)
    return Counter({slab: times})


@pytest.mark.parametrize("name", [name for name in LAYOUTS if name != "one"])
def test_collective_permutes_move_only_the_slabs_of_the_shift(
    reports: dict[str, Any], name: str
) -> None:
    (data, fsdp, window), over, *_ = LAYOUTS[name]
    moved: Counter[tuple[int, ...]] = Counter()
    for collective in reports[name]["collectives"]:
        if collective["kind"] == "collective-permute":
            for shape in collective["shapes"]:
                moved[tuple(shape)] += collective["times"]
    # Mixing moves one clip, with its target and its mask, from the device of the previous rows.
    clip = [1, *CLIP, 3]
    clip[1 + ("time", "height").index(over)] //= window
    mixed = {tuple(clip), (1, CLASSES), (1,)} if data * fsdp > 1 else set()
    slabs = halos(name)
    tokens = {shape for shape in moved if len(shape) > 2}
    assert tokens == {*slabs} | {shape for shape in mixed if len(shape) > 2}
    # Blocks that are recomputed may share one exchange with their forward pass (jax 0.10).
    fewer = LAYOUTS[name][3] == "block"
    assert all(count - fewer <= moved[shape] <= count for shape, count in slabs.items())
    if fsdp == 1:
        assert {*moved} == {*slabs} | mixed


@pytest.mark.parametrize("name", [name for name in LAYOUTS if name != "one"])
def test_all_other_collectives_are_sums(reports: dict[str, Any], name: str) -> None:
    (data, fsdp, _), *_ = LAYOUTS[name]
    kinds = {collective["kind"] for collective in reports[name]["collectives"]}
    others = [c for c in reports[name]["collectives"] if c["kind"] != "collective-permute"]
    shapes = [shape for collective in others for shape in collective["shapes"]]
    params = {math.prod(shape) for shape in reports["params"]}
    if fsdp > 1:
        assert max(map(math.prod, shapes)) <= max(params), "only parameters and gradients"
        return
    assert kinds == {"collective-permute", "all-reduce"}
    pooled = ROWS // data * 16
    assert {math.prod(shape) for shape in shapes} <= params | {pooled, 1}
    # XLA combines the sums of gradients; that of the pooled features is separate.
    assert len(others) <= 5


def test_kernels_support_clips_split_over_devices(reports: dict[str, Any]) -> None:
    gradients = reports["gradients"]
    scale = np.abs(gradients["one"]).max()
    assert scale > 0
    np.testing.assert_allclose(gradients["kernels"], gradients["one"], atol=1e-5 * scale)


def test_temporaries_shrink_with_the_number_of_devices(reports: dict[str, Any]) -> None:
    whole = reports["one"]["temporaries"]
    assert reports["time 4"]["temporaries"] < 0.35 * whole


def on_four(**model: Any) -> SwinTransformer3D:
    sizes = {"data": 1, "fsdp": 1, "model": 1, "window": 4}
    mesh = AbstractMesh(tuple(sizes.values()), tuple(sizes))
    over = model.pop("over", "time")
    return split_clips(create_model("swin_tiny", CLASSES, **model), mesh, over)


@pytest.mark.parametrize(
    ("over", "clip", "message"),
    [
        ("time", (32, 224, 224), "multiple of 64, but 32 came: use 64, or a mesh.window of 1 or 2"),
        ("time", (96, 224, 224), "use 64 or 128, or a mesh.window of 1 or 2 or 3 or 6"),
        ("time", (97, 224, 224), "use 64 or 128, or a mesh.window of 1"),
        ("time", (8, 224, 224), "use 64, or a mesh.window of 1"),
        ("height", (32, 448, 448), "multiple of 896, but 448 came: use 896, or a mesh.window of 1"),
    ],
)
def test_clips_that_do_not_split_are_rejected(
    over: str, clip: tuple[int, int, int], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        on_four(over=over).check_clip(clip)


@pytest.mark.parametrize(
    ("over", "clip"), [("time", (64, 224, 224)), ("time", (128, 7, 5)), ("height", (3, 896, 10))]
)
def test_clips_that_split_are_accepted(over: str, clip: tuple[int, int, int]) -> None:
    on_four(over=over).check_clip(clip)


def test_attention_dropout_is_rejected() -> None:
    with pytest.raises(InputError, match=r"attn_drop_rate to be 0 with mesh.window=4.*0.1"):
        on_four(attn_drop_rate=0.1)


def test_the_model_rejects_a_clip_that_does_not_split() -> None:
    model = on_four(embed_dim=4, depths=(1,), num_heads=(1,))
    params = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
    clips = jax.ShapeDtypeStruct((1, 32, 28, 28, 3), np.float32)
    with pytest.raises(InputError, match="a multiple of 64, but 32 came"):
        jax.eval_shape(lambda params, clips: model.apply({"params": params}, clips), params, clips)
