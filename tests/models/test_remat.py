"""Rematerialisation policies: the same gradients from less memory."""

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_params import random_params

from vswin_jax.errors import InputError
from vswin_jax.models import SwinTransformer3D, create_model, init_params
from vswin_jax.models.swin3d import REMAT

# One block: compiling its gradient takes seconds.
TINY = {"embed_dim": 16, "depths": (1,), "num_heads": (2,), "window_size": (2, 4, 4)}
CLIPS = (1, 8, 32, 32, 3)


def model_with(remat: str) -> SwinTransformer3D:
    # Every kind of dropout is on: rematerialised layers must draw the same numbers.
    rates = {"drop_rate": 0.1, "attn_drop_rate": 0.1}
    return create_model("swin_tiny", 5, **TINY, **rates, remat=remat, attention="xla")


def loss(params: Any, clips: jax.Array, remat: str) -> jax.Array:
    rngs = {"dropout": jax.random.key(1)}
    logits = model_with(remat).apply({"params": params}, clips, True, rngs=rngs)
    return jnp.sum(logits**2)


@pytest.fixture(scope="module")
def params() -> Any:
    return random_params(model_with("none"))


@pytest.fixture(scope="module")
def clips() -> jax.Array:
    return jax.random.normal(jax.random.key(2), CLIPS)


@pytest.fixture(scope="module")
def expected(params: Any, clips: jax.Array) -> Any:
    return jax.jit(jax.grad(loss), static_argnums=2)(params, clips, "none")


@pytest.mark.parametrize(
    "remat",
    [
        pytest.param(name, marks=[] if name == "dots" else [pytest.mark.long])
        for name in REMAT
        if name != "none"
    ],
)
def test_gradients_equal_those_without_remat(
    remat: str, params: Any, clips: jax.Array, expected: Any
) -> None:
    ours = jax.jit(jax.grad(loss), static_argnums=2)(params, clips, remat)
    for (path, leaf), theirs in zip(
        jax.tree.leaves_with_path(ours), jax.tree.leaves(expected), strict=True
    ):
        scale = np.abs(theirs).max()
        np.testing.assert_allclose(leaf, theirs, atol=2e-5 * scale, err_msg=str(path))


def stored_megabytes(remat: str, params: Any) -> float:
    """Return the megabytes stored for the backward pass, without the parameters."""
    clips = jax.ShapeDtypeStruct(CLIPS, jnp.float32)

    def backward(params: Any, clips: jax.Array) -> Any:
        return jax.vjp(lambda p: loss(p, clips, remat), params)[1]

    residuals = jax.tree.leaves(jax.eval_shape(backward, params, clips))
    parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
    return 4e-6 * (sum(math.prod(leaf.shape) for leaf in residuals) - parameters)


def test_each_policy_stores_less_than_the_one_before(params: Any) -> None:
    stored = [stored_megabytes(remat, params) for remat in REMAT]
    assert all(less < 0.9 * more for more, less in itertools.pairwise(stored)), stored


def test_only_block_remat_computes_chunked_attention_a_third_time(params: Any) -> None:
    """The backward pass recomputes the logits; the other policies store the output by name."""

    def count(remat: str) -> int:
        model = model_with(remat).clone(attention="chunked", attn_drop_rate=0.0)
        clips = jax.ShapeDtypeStruct(CLIPS, jnp.float32)

        def loss(params: Any, clips: jax.Array) -> jax.Array:
            return model.apply(
                {"params": params}, clips, True, rngs={"dropout": jax.random.key(1)}
            ).sum()

        return str(jax.make_jaxpr(jax.grad(loss))(params, clips)).count(" = exp ")

    counts = {remat: count(remat) for remat in REMAT}
    least = counts.pop("none")
    assert counts == {"attention": least, "dots": least, "mlp": least, "block": least + 1}


def test_the_error_for_an_unknown_policy_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match="attention, block, dots, mlp, none"):
        init_params(create_model("swin_tiny", remat="everything"), jax.random.key(0))
