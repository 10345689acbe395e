import dataclasses
from types import SimpleNamespace
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optim_settings import optim_settings

from vswin_jax.errors import InputError
from vswin_jax.models import create_model, init_params
from vswin_jax.training.optimizer import count_groups, make_optimizer, param_multipliers

Flat = dict[str, np.ndarray]


def config(**overrides: Any) -> SimpleNamespace:
    return optim_settings(**({"learning_rate": 1e-2} | overrides))


def some_params(seed: int = 0) -> dict[str, Any]:
    """Draw one parameter of every kind, under the paths of the model."""
    shapes = {
        "patch_embed/proj/kernel": (4, 3),
        "layers_0/blocks_0/norm1/scale": (3,),
        "layers_0/blocks_0/attn/relative_position_bias_table": (5, 2),
        "layers_0/blocks_0/attn/qkv/bias": (4,),
        "layers_1/blocks_0/mlp/fc1/kernel": (3, 3),
        "norm/bias": (3,),
        "head/kernel": (3, 5),
    }
    rng = np.random.default_rng(seed)
    flat = {path: rng.normal(size=shape).astype(np.float32) for path, shape in shapes.items()}
    return flax.traverse_util.unflatten_dict(flat, sep="/")


def flatten(tree: Any) -> Flat:
    return {k: np.asarray(v) for k, v in flax.traverse_util.flatten_dict(tree, sep="/").items()}


def decaying(step: jax.typing.ArrayLike) -> jax.Array:
    """Return a different multiplier for each step."""
    return 1.0 / (1.0 + jnp.asarray(step, jnp.float32))


@dataclasses.dataclass
class NumpyAdamW:
    """The pseudocode in the documentation of torch.optim.AdamW."""

    settings: SimpleNamespace
    params: Flat

    def __post_init__(self) -> None:
        self.mean = {path: np.zeros_like(p, np.float64) for path, p in self.params.items()}
        self.square = {path: np.zeros_like(p, np.float64) for path, p in self.params.items()}
        self.params = {path: p.astype(np.float64) for path, p in self.params.items()}
        self.count = 0

    def step(self, grads: Flat, schedule: float) -> None:
        s = self.settings
        self.count += 1
        for path, grad in grads.items():
            rate, decay = param_multipliers(path, s.groups, s.backbone_multiplier)
            lr = s.learning_rate * schedule * rate
            self.params[path] *= 1 - lr * s.weight_decay * decay
            self.mean[path] = s.b1 * self.mean[path] + (1 - s.b1) * grad
            self.square[path] = s.b2 * self.square[path] + (1 - s.b2) * grad**2
            mean = self.mean[path] / (1 - s.b1**self.count)
            square = self.square[path] / (1 - s.b2**self.count)
            self.params[path] -= lr * mean / (np.sqrt(square) + s.eps)


@pytest.mark.parametrize("groups", ["literal", "intended"])
def test_five_steps_equal_those_of_torch_adamw(groups: str) -> None:
    settings = config(groups=groups, weight_decay=0.5)
    params = some_params()
    expected = NumpyAdamW(settings, flatten(params))
    optimizer = make_optimizer(settings, decaying, params)
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    for step in range(5):
        grads = some_params(seed=step + 1)
        updates, state = update(grads, state, params, step=step)
        params = optax.apply_updates(params, updates)
        expected.step(flatten(grads), 1 / (1 + step))
        assert float(state.learning_rate) == pytest.approx(settings.learning_rate / (1 + step))
    for path, value in flatten(params).items():
        np.testing.assert_allclose(value, expected.params[path], rtol=1e-5, atol=1e-6, err_msg=path)


@pytest.mark.long
def test_a_bfloat16_first_moment_is_half_as_large_and_nearly_as_good() -> None:
    """Compare updates: each step adds a relative error of one bfloat16 rounding, 2 ** -9."""
    params = {}
    for dtype in ("float32", "bfloat16"):
        optimizer = make_optimizer(config(), decaying, some_params(), moment_dtype=dtype)
        params[dtype] = some_params()
        state = optimizer.init(params[dtype])
        for step in range(5):
            updates, state = optimizer.update(
                some_params(seed=step + 1), state, params[dtype], step=step
            )
            params[dtype] = optax.apply_updates(params[dtype], updates)
        adam = state.inner[1]
        assert {leaf.dtype.name for leaf in jax.tree.leaves(adam.mu)} == {dtype}
        assert {leaf.dtype.name for leaf in jax.tree.leaves(adam.nu)} == {"float32"}
    moved = {
        dtype: flatten(jax.tree.map(np.subtract, after, some_params()))
        for dtype, after in params.items()
    }
    for path, exact in moved["float32"].items():
        difference = np.abs(moved["bfloat16"][path] - exact)
        assert 0 < difference.max() < 0.02 * np.abs(exact).max()


def test_an_unknown_moment_dtype_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match="bfloat16, float32"):
        make_optimizer(config(), decaying, some_params(), moment_dtype="float16")


# Two values per channel of each LayerNorm: embedding, two per block, merges (4C), final.
NORM_VALUES = 2 * (96 + 2 * (2 * 96 + 2 * 192 + 6 * 384 + 2 * 768) + 4 * (96 + 192 + 384) + 768)


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        (
            "literal",
            {
                (0.1, 1.0): (159, 27_500_640),
                (1.0, 0.0): (12, 349_830),
                (1.0, 1.0): (2, 307_600),
            },
        ),
        (
            "intended",
            {
                (0.1, 1.0): (159 - 58, 27_500_640 - NORM_VALUES),
                (0.1, 0.0): (12 + 58, 349_830 + NORM_VALUES),
                (1.0, 1.0): (2, 307_600),
            },
        ),
    ],
)
def test_groups_of_swin_tiny_count_as_in_the_reference(
    groups: str, expected: dict[tuple[float, float], tuple[int, int]]
) -> None:
    shapes = jax.eval_shape(lambda key: init_params(create_model(), key), jax.random.key(0))
    assert count_groups(shapes, groups) == expected


def test_an_unknown_grouping_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match="intended, literal"):
        param_multipliers("head/kernel", "official")


def test_a_negative_setting_is_rejected() -> None:
    with pytest.raises(InputError, match=r"optim\.learning_rate must be 0 or above, got -1"):
        make_optimizer(config(learning_rate=-1.0), decaying, some_params())


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_a_step_that_is_not_finite_changes_only_the_counters(bad: float) -> None:
    params = some_params()
    optimizer = make_optimizer(config(), decaying, params)
    update = jax.jit(optimizer.update)
    _, before = update(some_params(1), optimizer.init(params), params, step=0)
    grads = some_params(2)
    grads["head"]["kernel"][0, 0] = bad
    state = before
    for step in (1, 2):
        updates, state = update(grads, state, params, step=step)
        assert all(not np.any(leaf) for leaf in jax.tree.leaves(updates))
    jax.tree.map(np.testing.assert_array_equal, state.inner, before.inner)
    assert (int(state.skipped_total), int(state.skipped_in_a_row)) == (2, 2)
    updates, state = update(some_params(3), state, params, step=3)
    assert (int(state.skipped_total), int(state.skipped_in_a_row)) == (2, 0)
    assert any(np.any(leaf) for leaf in jax.tree.leaves(updates))
    # The schedule follows the step, not the number of applied updates.
    assert float(state.learning_rate) == pytest.approx(1e-2 / 4)


def test_frozen_parameters_do_not_change_at_all() -> None:
    params = some_params()
    optimizer = make_optimizer(config(weight_decay=1.0), decaying, params, frozen_stages=1)
    updates, state = optimizer.update(some_params(1), optimizer.init(params), params, step=0)
    changed = {path for path, update in flatten(updates).items() if np.any(update)}
    assert changed == {"layers_1/blocks_0/mlp/fc1/kernel", "norm/bias", "head/kernel"}
    trained = [g for path, g in flatten(some_params(1)).items() if path in changed]
    norm = np.sqrt(sum(np.sum(g.astype(np.float64) ** 2) for g in trained))
    assert float(state.grad_norm) == pytest.approx(norm, rel=1e-5)


def test_clipping_scales_the_gradients_to_the_norm() -> None:
    params, grads = some_params(), some_params(1)
    norm = float(optax.tree.norm(grads))
    shrunk = jax.tree.map(lambda g: g * (0.5 / norm), grads)
    clipped = make_optimizer(config(clip_norm=0.5), decaying, params)
    plain = make_optimizer(config(), decaying, params)
    _, expected = plain.update(shrunk, plain.init(params), params, step=0)
    _, state = clipped.update(grads, clipped.init(params), params, step=0)
    assert float(state.grad_norm) == pytest.approx(norm, rel=1e-6)
    for ours, theirs in zip(
        jax.tree.leaves(state.inner), jax.tree.leaves(expected.inner), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-9)
