"""Trains with each sharding strategy on eight devices, for `test_program_layouts.py`.

All strategies share one process, because imports and compilation take most of the time. It prints
one JSON object; `directory` is for a checkpoint.
"""

import json
import sys
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from optim_settings import optim_settings

from vswin_jax.analysis.compiled_program import find_collectives
from vswin_jax.analysis.hlo_text import parse_module
from vswin_jax.checkpoint import Checkpoints
from vswin_jax.models import create_model, init_params
from vswin_jax.sharding.mesh import default_rules, make_mesh, place_batch
from vswin_jax.training.optimizer import make_optimizer
from vswin_jax.training.state import (
    TrainState,
    abstract_state,
    create_state,
    lower_creation,
    make_initializer,
)
from vswin_jax.training.steps import make_eval_step, make_train_step

CLASSES, ROWS, STEPS = 5, 16, 20
STRATEGIES = {
    "data 8": {"data": 8},
    "fsdp 8": {"fsdp": 8},
    "data 2 x fsdp 4": {"fsdp": 4},
    "data 4 x model 2": {"model": 2},
    "data 2 x fsdp 2 x model 2": {"fsdp": 2, "model": 2},
}
# The one head of the first stage cannot be split; the two heads of the second one can. Every kind
# of dropout is on.
MODEL = create_model(
    "swin_tiny",
    CLASSES,
    embed_dim=8,
    depths=(1, 1),
    num_heads=(1, 2),
    window_size=(2, 2, 2),
    drop_rate=0.1,
    attn_drop_rate=0.1,
    drop_path_rate=0.2,
    attention="xla",
)
SHAPES = jax.eval_shape(lambda: init_params(MODEL, jax.random.key(0)))
OPTIMIZER = make_optimizer(
    optim_settings(learning_rate=3e-3, backbone_multiplier=1.0, clip_norm=1.0),
    lambda step: 1.0 / (1.0 + step),
    SHAPES,
)


def batch_of(seed: int, views: int = 1) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "video": rng.integers(0, 256, (ROWS, views, 6, 32, 32, 3), dtype=np.uint8),
        "label": rng.integers(0, CLASSES, ROWS).astype(np.int32),
        "mask": np.ones(ROWS, np.float32),
        "flip": rng.random(ROWS) < 0.5,
    }


def target_on(mesh: Mesh) -> TrainState:
    return abstract_state(MODEL, OPTIMIZER, mesh, default_rules(mesh, SHAPES), ema=True)


def layout_of(state: TrainState) -> TrainState:
    return jax.tree.map(lambda leaf: leaf.sharding, state)


def step_on(mesh: Mesh) -> Any:
    """Compile the training step."""
    target = target_on(mesh)
    step = make_train_step(
        MODEL,
        OPTIMIZER,
        seed=0,
        num_classes=CLASSES,
        label_smoothing=0.1,
        mixup_alpha=0.8,
        random_erasing_rate=0.5,
        ema_decay=0.9,
        state_shardings=layout_of(target),
        mesh=mesh,
    )
    return step.lower(target, place_batch(batch_of(0), mesh)).compile()


def collectives(compiled: Any) -> list[dict[str, Any]]:
    found = find_collectives(parse_module(compiled.as_text()))
    return [
        {"kind": c.kind, "group": c.group_size, "shapes": [array.shape for array in c.results]}
        for c in found
    ]


def fresh_on(mesh: Mesh, params: Any = None) -> TrainState:
    rules = default_rules(mesh, SHAPES)
    return create_state(MODEL, OPTIMIZER, jax.random.key(0), mesh, rules, params, ema=True)


def train(mesh: Mesh, compiled: Any, state: TrainState) -> tuple[TrainState, list[float]]:
    losses = []
    for seed in range(STEPS):
        state, metrics = compiled(state, place_batch(batch_of(seed), mesh))
        losses.append(float(metrics["loss_sum"] / metrics["count"]))
    return state, losses


def scores(mesh: Mesh, state: TrainState) -> list[list[float]]:
    step = make_eval_step(MODEL, 2, mesh=mesh)
    found = step(state.ema_params, place_batch(batch_of(99, views=3), mesh))
    return np.asarray(found["probabilities"]).tolist()


def bytes_on_a_device(state: TrainState) -> int:
    return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state))


def largest_array_of_init(mesh: Mesh) -> int:
    """Return the elements of the largest array on a device while the state is created."""
    initialize = make_initializer(MODEL, mesh)
    made = lower_creation(target_on(mesh), initialize, OPTIMIZER, jax.random.key(0))
    module = parse_module(made.compile().as_text())
    return max(
        array.size for execution in module.executions for array in execution.instruction.results
    )


def all_equal(ours: TrainState, theirs: TrainState) -> bool:
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, ours, theirs)))


def report(directory: str) -> dict[str, Any]:
    one = make_mesh(devices=jax.devices()[:1])
    meshes = {name: make_mesh(**axes) for name, axes in STRATEGIES.items()}
    facts = {}
    drawn = fresh_on(meshes["fsdp 8"])
    params = jax.tree.map(np.asarray, drawn.params)
    for name, mesh in {"one device": one, **meshes}.items():
        compiled = step_on(mesh)
        state = drawn if name == "fsdp 8" else fresh_on(mesh, params)
        fresh_bytes = bytes_on_a_device(state)
        state, losses = train(mesh, compiled, state)
        facts[name] = {
            "losses": losses,
            "bytes": fresh_bytes,
            "keeps_layout": layout_of(state) == layout_of(target_on(mesh)),
            "collectives": collectives(compiled),
        }
        if name == "fsdp 8":
            saved = state
    facts["fsdp 8"]["largest_of_init"] = largest_array_of_init(meshes["fsdp 8"])
    with Checkpoints(directory) as checkpoints:
        checkpoints.save(STEPS, saved, {"config": {}, "label_names": []})
        for name in ("one device", "fsdp 8", "data 4 x model 2"):
            mesh = {"one device": one, **meshes}[name]
            checkpoints.wait()
            restored, _ = checkpoints.restore_latest(target_on(mesh))
            facts[name] |= {
                "restored": all_equal(restored, saved),
                "restored_layout": layout_of(restored) == layout_of(target_on(mesh)),
                "scores": scores(mesh, restored),
            }
    return facts


if __name__ == "__main__":
    print(json.dumps(report(sys.argv[1])))
