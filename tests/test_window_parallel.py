"""Clips shared by several devices: the losses of one device, and what is communicated for them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from vswin_jax.compiled_program import Collective, read_program
from vswin_jax.errors import InputError
from vswin_jax.mesh import REPLICATED, default_rules, make_mesh, place_batch
from vswin_jax.models import SwinTransformer3D, create_model, init_params, split_clips
from vswin_jax.optim import make_optimizer
from vswin_jax.state import TrainState, create_state
from vswin_jax.steps import BATCH_KEYS, TrainStep, make_eval_step, make_train_step

CLASSES, STEPS, ROWS = 5, 20, 4
CLIP = (32, 32, 12)  # frames, height, width: (16, 8, 3) tokens, of which the width is padded
WINDOW = (4, 2, 2)
# (devices on data, fsdp and window, what the clip is split over, attention, remat)
LAYOUTS: dict[str, tuple[tuple[int, int, int], str, str, str]] = {
    "one": ((1, 1, 1), "time", "xla", "none"),
    "time 2": ((1, 1, 2), "time", "chunked", "none"),
    "time 4": ((1, 1, 4), "time", "xla", "none"),
    "fsdp 2 x height 2": ((1, 2, 2), "height", "xla", "block"),
    "data 2 x time 4": ((2, 1, 4), "time", "chunked", "none"),
}


def swin(**changes: Any) -> SwinTransformer3D:
    settings = {
        "embed_dim": 8,
        "depths": (2, 2),
        "num_heads": (1, 2),
        "window_size": WINDOW,
        "drop_path_rate": 0.3,
        "drop_rate": 0.1,
        **changes,
    }
    return create_model("swin_tiny", CLASSES, **settings)


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
    settings = {"weight_decay": 0.05, "b1": 0.9, "b2": 0.999, "eps": 1e-8, "clip_norm": 0.0}
    groups = {"learning_rate": 1e-3, "groups": "literal", "backbone_multiplier": 1.0}
    optimizer = make_optimizer(
        SimpleNamespace(**settings, **groups), lambda step: 1.0, params, model.frozen_stages
    )
    rules = default_rules(mesh, params) if fsdp > 1 else REPLICATED
    state = create_state(model, optimizer, jax.random.key(0), mesh, rules, params, ema=True)
    step = make_train_step(
        model,
        optimizer,
        seed=0,
        num_classes=CLASSES,
        mixup_alpha=0.8,
        cutmix_alpha=1.0,
        erasing=0.5,
        ema_decay=0.9,
        state_shardings=jax.tree.map(lambda leaf: leaf.sharding, state),
    )
    return model, mesh, state, step


def report_of(name: str, params: Any) -> dict[str, Any]:
    """Losses of 20 steps and of an evaluation, and what the compiled step communicates."""
    model, mesh, state, step = steps_of(name, params)
    over = LAYOUTS[name][1]
    batches = [place_batch(batch_of(seed), mesh, over) for seed in range(STEPS)]
    compiled = step.lower(state, batches[0]).compile()
    program = read_program(compiled)
    losses = []
    for batch in batches:
        state, metrics = compiled(state, batch)
        losses.append(float(metrics["loss_sum"] / metrics["count"]))
    views = {key: rows for key, rows in batch_of(99, views=3).items() if key in BATCH_KEYS}
    views = place_batch(views, mesh, over)
    evaluated = make_eval_step(model, 2)(state.ema_params, views)
    return {
        "losses": losses,
        "evaluation": np.asarray(evaluated["loss"]).tolist(),
        "temporaries": program.memory.temporaries,
        "collectives": [_described(collective) for collective in program.collectives],
    }


def _described(collective: Collective) -> dict[str, Any]:
    return {
        "kind": collective.kind,
        "shapes": [array.shape for array in collective.operands],
        "times": collective.times,
    }


def main() -> None:
    params = jax.tree.map(np.asarray, init_params(swin(), jax.random.key(0)))
    reports = {name: report_of(name, params) for name in LAYOUTS}
    print(json.dumps(reports))


@pytest.fixture(scope="module")
def reports() -> dict[str, Any]:
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        # Compiling is nearly all that is done here.
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
    }
    command = [sys.executable, "-c", "import test_window_parallel as room; room.main()"]
    done = subprocess.run(
        command, env=environment, cwd=Path(__file__).parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
