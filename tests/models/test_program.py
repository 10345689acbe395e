"""The compiled program of swin_tiny at its published size."""

import math
import re

import jax
import jax.numpy as jnp
import pytest

from vswin_jax.models import create_model, init_params


@pytest.mark.long
def test_swin_tiny_compiles_without_a_large_constant() -> None:
    model = create_model("swin_tiny")
    params = jax.eval_shape(lambda key: init_params(model, key), jax.random.key(0))
    clips = jax.ShapeDtypeStruct((1, 32, 224, 224, 3), jnp.float32)
    forward = jax.jit(lambda params, clips: model.apply({"params": params}, clips))
    program = forward.lower(params, clips).compile().as_text()
    sizes = {"f64": 8, "s64": 8, "f32": 4, "s32": 4, "u32": 4, "bf16": 2, "s8": 1, "pred": 1}
    constants = re.findall(r"= (\w+)\[([\d,]*)\]\S* constant\(", program)
    assert len(constants) > 10
    largest = max(
        sizes[kind] * math.prod(map(int, filter(None, extent.split(","))))
        for kind, extent in constants
    )
    # The largest constant is the segment ids of stage 0: 128 windows of 392 tokens, a byte each.
    assert 128 * 392 <= largest <= 2**20
