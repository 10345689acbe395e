import logging
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optim_settings import optim_settings

from vswin_jax.models import SwinTransformer3D, create_model, init_params
from vswin_jax.reporting.metric_writer import log_parameter_table
from vswin_jax.sharding.mesh import REPLICATED, make_mesh
from vswin_jax.training.optimizer import make_optimizer
from vswin_jax.training.state import abstract_state, create_state, inference_params, sharded_shapes


def tiny() -> tuple[SwinTransformer3D, optax.GradientTransformationExtraArgs]:
    model = create_model(
        "swin_tiny",
        num_classes=5,
        embed_dim=8,
        depths=(1,),
        num_heads=(1,),
        window_size=(2, 2, 2),
    )
    shapes = jax.eval_shape(lambda key: init_params(model, key), jax.random.key(0))
    return model, make_optimizer(optim_settings(), optax.constant_schedule(1.0), shapes)


def assert_equal(ours: Any, theirs: Any) -> None:
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@pytest.mark.long
def test_a_fresh_state_has_the_models_parameters_and_no_steps() -> None:
    model, optimizer = tiny()
    state = create_state(model, optimizer, jax.random.key(3), make_mesh(), REPLICATED)
    assert int(state.step) == 0
    assert state.ema_params is None
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(state.opt_state))
    expected = init_params(model, jax.random.key(3))
    assert jax.tree.structure(state.params) == jax.tree.structure(expected)
    for ours, theirs in zip(jax.tree.leaves(state.params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_the_state_and_its_average_start_from_pretrained_parameters() -> None:
    model, optimizer = tiny()
    pretrained = jax.tree.map(np.asarray, init_params(model, jax.random.key(1)))
    state = create_state(
        model,
        optimizer,
        jax.random.key(0),
        make_mesh(),
        REPLICATED,
        pretrained,
        ema=True,
    )
    assert_equal(state.params, pretrained)
    assert_equal(state.ema_params, pretrained)
    buffers = [
        leaf.unsafe_buffer_pointer()
        for leaf in jax.tree.leaves((state.params, state.ema_params))
        if len(leaf.devices()) == 1
    ]
    assert len(set(buffers)) == len(buffers), "a shared buffer could not be donated"


def test_the_abstract_state_is_that_of_a_created_one() -> None:
    model, optimizer = tiny()
    mesh = make_mesh()
    state = create_state(model, optimizer, jax.random.key(0), mesh, REPLICATED, ema=True)
    abstract = abstract_state(model, optimizer, mesh, REPLICATED, ema=True)

    def properties(leaf: Any) -> tuple[Any, ...]:
        return leaf.shape, leaf.dtype, leaf.sharding

    assert jax.tree.map(properties, state) == jax.tree.map(properties, abstract)


def test_inference_uses_the_averaged_parameters_if_the_state_has_them() -> None:
    model, optimizer = tiny()
    state = create_state(model, optimizer, jax.random.key(0), make_mesh(), REPLICATED)
    assert inference_params(state) is state.params
    average = jax.tree.map(lambda leaf: leaf + 1, state.params)
    assert inference_params(state.replace(ema_params=average)) is average


def test_the_shapes_of_the_parameters_have_their_shardings(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model, mesh = tiny()[0], make_mesh()
    shapes = sharded_shapes(model, mesh)
    params = init_params(model, jax.random.key(0))
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(lambda leaf: leaf.shape, shapes)
    pytest.importorskip("clu")
    caplog.set_level(logging.INFO, logger="vswin_jax")
    log_parameter_table(shapes)
    assert "head/kernel" in caplog.text
