"""Moments in the host's memory: CPU devices of JAX have memory kinds too."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from flax import linen as nn

from vswin_jax.checkpoint import Checkpoints
from vswin_jax.errors import InputError
from vswin_jax.models import init_params
from vswin_jax.sharding.mesh import REPLICATED, make_mesh, place_batch
from vswin_jax.training import offload
from vswin_jax.training.optimizer import make_optimizer
from vswin_jax.training.state import TrainState, abstract_state, create_state
from vswin_jax.training.steps import make_train_step

pytestmark = pytest.mark.usefixtures("quick_compiler")


class Toy(nn.Module):
    """A video classifier that compiles in a second, with the call and the paths of the real one."""

    patch_size: tuple[int, int, int] = (2, 4, 4)

    @nn.compact
    def __call__(self, clips: jax.Array, train: bool = False) -> jax.Array:
        maps = nn.gelu(nn.Conv(8, self.patch_size, self.patch_size, name="patch_embed")(clips))
        return nn.Dense(5, name="head")(maps.mean((1, 2, 3)))


def batch_of(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "video": rng.integers(0, 256, (4, 1, 4, 16, 16, 3), dtype=np.uint8),
        "label": rng.integers(0, 5, 4).astype(np.int32),
        "mask": np.ones(4, np.float32),
        "flip": rng.random(4) < 0.5,
    }


def kinds(state: Any) -> dict[str, set[str]]:
    """Where the parameters, the moments and the counters are."""
    moments, counters = jax.tree.leaves(state.opt_state.inner), jax.tree.leaves(state.opt_state[1:])
    parts = {
        "params": jax.tree.leaves(state.params),
        "moments": [leaf for leaf in moments if leaf.ndim],
        "counters": [*counters, state.step, *(leaf for leaf in moments if not leaf.ndim)],
    }
    return {name: {leaf.sharding.memory_kind for leaf in leaves} for name, leaves in parts.items()}


def run(offloaded: bool) -> tuple[TrainState, TrainState, list[float]]:
    """Three steps: the target of a restart, the last state, and the losses."""
    model, mesh = Toy(), make_mesh(devices=jax.devices()[:1])
    shapes = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
    settings = SimpleNamespace(
        learning_rate=3e-2,
        weight_decay=0.05,
        b1=0.9,
        b2=0.999,
        eps=1e-8,
        groups="literal",
        backbone_multiplier=0.1,
        clip_norm=0.0,
    )
    optimizer = make_optimizer(settings, lambda step: 1.0, shapes, offloaded=offloaded)
    target = abstract_state(model, optimizer, mesh, REPLICATED)
    state = create_state(model, optimizer, jax.random.key(0), mesh, REPLICATED)
    if offloaded:
        target, state = offload.moments_to_host(target), offload.moments_to_host(state)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, target)
    step = make_train_step(model, optimizer, seed=0, num_classes=5, state_shardings=shardings)
    losses = []
    for number in range(3):
        state, metrics = step(state, place_batch(batch_of(number), mesh))
        losses.append(float(metrics["loss_sum"]))
    return target, state, losses


def test_the_moments_stay_on_the_host_and_nothing_else_changes(tmp_path: Path) -> None:
    target, state, losses = run(offloaded=True)
    _, plain, expected = run(offloaded=False)
    assert losses == expected
    jax.tree.map(np.testing.assert_array_equal, state, plain)
    where = {"params": {"device"}, "moments": {"pinned_host"}, "counters": {"device"}}
    assert kinds(state) == kinds(target) == where
    assert kinds(plain) == {name: {"device"} for name in where}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, state, {})
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore_latest(target)
    assert restored is not None
    assert kinds(restored[0]) == where
    jax.tree.map(np.testing.assert_array_equal, restored[0], plain)


def test_devices_that_cannot_reach_the_host() -> None:
    offload.check_supported(jax.devices())
    memories = [SimpleNamespace(kind="device"), SimpleNamespace(kind="unpinned_host")]
    device = SimpleNamespace(device_kind="Abacus", addressable_memories=lambda: memories)
    with pytest.raises(InputError, match="Abacus has device, unpinned_host"):
        offload.check_supported([device])
