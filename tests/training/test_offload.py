"""Offloaded moments; JAX's CPU devices have memory kinds too, so no accelerator is needed."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from flax import linen as nn
from optim_settings import optim_settings

from vswin_jax.checkpoint import Checkpoints
from vswin_jax.errors import InputError
from vswin_jax.models import init_params
from vswin_jax.sharding.mesh import REPLICATED, make_mesh, place_batch
from vswin_jax.training import offload
from vswin_jax.training.optimizer import make_optimizer
from vswin_jax.training.state import TrainState, abstract_state, create_state
from vswin_jax.training.steps import make_train_step


class Toy(nn.Module):
    """A video classifier that compiles in a second, with the signature of the real one."""

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


def memory_kinds(state: Any) -> dict[str, set[str]]:
    """Return the memory kinds of the parameters, the moments and the counters."""
    moments, counters = jax.tree.leaves(state.opt_state.inner), jax.tree.leaves(state.opt_state[1:])
    parts = {
        "params": jax.tree.leaves(state.params),
        "moments": [leaf for leaf in moments if leaf.ndim],
        "counters": [*counters, state.step, *(leaf for leaf in moments if not leaf.ndim)],
    }
    return {name: {leaf.sharding.memory_kind for leaf in leaves} for name, leaves in parts.items()}


def run(offloaded: bool) -> tuple[TrainState, TrainState, list[float]]:
    """Run three steps; return the target of a restart, the last state and the losses."""
    model, mesh = Toy(), make_mesh(devices=jax.devices()[:1])
    shapes = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
    settings = optim_settings(learning_rate=3e-2)
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


@pytest.mark.long
def test_the_moments_stay_on_the_host_and_nothing_else_changes(tmp_path: Path) -> None:
    target, state, losses = run(offloaded=True)
    _, plain, expected = run(offloaded=False)
    assert losses == expected
    jax.tree.map(np.testing.assert_array_equal, state, plain)
    expected_kinds = {"params": {"device"}, "moments": {"pinned_host"}, "counters": {"device"}}
    assert memory_kinds(state) == memory_kinds(target) == expected_kinds
    assert memory_kinds(plain) == {name: {"device"} for name in expected_kinds}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, state, {})
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore_latest(target)
    assert restored is not None
    assert memory_kinds(restored[0]) == expected_kinds
    jax.tree.map(np.testing.assert_array_equal, restored[0], plain)


def test_devices_without_pinned_host_memory_are_rejected() -> None:
    offload.check_supported(jax.devices())
    memories = [SimpleNamespace(kind="device"), SimpleNamespace(kind="unpinned_host")]
    device = SimpleNamespace(device_kind="Abacus", addressable_memories=lambda: memories)
    with pytest.raises(InputError, match="Abacus has device, unpinned_host"):
        offload.check_supported([device])
