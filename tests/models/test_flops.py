"""The FLOP counts, against published numbers and against traced programs."""

import math
from types import SimpleNamespace
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
import pytest

from vswin_jax.models import create_model, init_params
from vswin_jax.models.flops import forward_macs, hardware_flops, ideal_step_seconds, model_flops
from vswin_jax.models.swin3d import REMAT

# The published tables count multiply-accumulates of one view, in G.
PUBLISHED: tuple[tuple[str, dict[str, Any], int, float], ...] = (
    ("swin_tiny", {}, 224, 87.8),
    ("swin_small", {}, 224, 165.7),
    ("swin_base", {}, 224, 281.3),
    ("swin_base", {"window_size": (16, 7, 7), "num_classes": 174}, 224, 320.4),
    ("swin_large", {}, 224, 603.3),
    ("swin_large", {"window_size": (8, 12, 12)}, 384, 2106.4),
)
CLIP = (4, 64, 64)
TINY = {"embed_dim": 16, "depths": (2, 1), "num_heads": (2, 4), "window_size": (2, 4, 4)}


@pytest.mark.parametrize(("name", "settings", "size", "giga"), PUBLISHED)
def test_the_published_numbers(name: str, settings: dict[str, Any], size: int, giga: float) -> None:
    macs = forward_macs(create_model(name, **settings), (32, size, size))
    assert macs.total / 1e9 == pytest.approx(giga, abs=0.06)


def test_attention_and_linear_layers_have_separate_counts() -> None:
    """Swin-T: 17.94 G of attention and 69.83 G of linear layers."""
    macs = forward_macs(create_model("swin_tiny"), (32, 224, 224))
    attention = sum(stage["logits"] + stage["values"] for stage in macs.blocks)
    assert attention / 1e9 == pytest.approx(17.94, abs=0.005)
    assert (macs.total - attention) / 1e9 == pytest.approx(69.83, abs=0.006)


def test_padding_counts_in_windows_but_not_in_the_mlp() -> None:
    """Grid (1, 5, 5) in windows (1, 4, 4): 25 tokens, padded to 64 in windows of 16."""
    model = create_model(
        "swin_tiny", 3, embed_dim=8, depths=(1,), num_heads=(1,), window_size=(1, 4, 4)
    )
    macs = forward_macs(model, (2, 20, 18))
    assert macs.patch_embed == 25 * 96 * 8
    assert macs.blocks[0] == {
        "qkv": 64 * 8 * 24,
        "logits": 64 * 16 * 8,
        "values": 64 * 16 * 8,
        "proj": 64 * 8 * 8,
        "fc1": 25 * 8 * 32,
        "fc2": 25 * 8 * 32,
    }
    assert (macs.merges, macs.head) == ((0,), 8 * 3)


def test_training_counts_three_forward_passes_and_frozen_stages_one() -> None:
    clip = (4, 32, 32)
    macs = forward_macs(create_model("swin_tiny", 5, **TINY), clip)

    def flops(frozen_stages: int) -> int:
        return model_flops(create_model("swin_tiny", 5, **TINY, frozen_stages=frozen_stages), clip)

    assert flops(-1) == 6 * macs.total
    assert flops(0) == 6 * macs.total - 4 * macs.patch_embed
    assert flops(1) == 6 * macs.total - 4 * (macs.patch_embed + macs.stages[0])
    assert flops(2) == 2 * macs.total + 4 * macs.head


def test_ideal_step_time_is_at_the_peak_of_all_devices() -> None:
    """Swin-T on 64 clips: 64 x 6 x 87.76e9 FLOPs, on 4 chips of 197e12 a second."""
    model, clip = create_model("swin_tiny"), (32, 224, 224)
    chips = [SimpleNamespace(device_kind="TPU v5 lite")] * 4
    ideal = ideal_step_seconds(model, clip, 64, chips)
    assert ideal == pytest.approx(64 * 6 * 87.76e9 / (4 * 197e12), rel=1e-3)
    unknown = SimpleNamespace(device_kind="Abacus")
    assert ideal_step_seconds(model, clip, 64, [*chips, unknown]) is None
    assert ideal_step_seconds(model, clip, 64, jax.devices("cpu")) is None


def dot_flops(jaxpr: jax.extend.core.Jaxpr) -> int:
    """Count the FLOPs of all matrix products in a jaxpr and in its inner jaxprs."""
    count = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            extents = (equation.invars[0].aval.shape[axis] for axis in contracted)
            count += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(extents)
        for value in jax.tree.leaves(list(equation.params.values())):
            inner = getattr(value, "jaxpr", value)
            count += dot_flops(inner) if hasattr(inner, "eqns") else 0
    return count


def traced_flops(remat: str, *, train: bool) -> int:
    """Count the FLOPs of the traced model for one clip."""
    model = create_model("swin_tiny", 5, **TINY, remat=remat, attention="xla")
    params = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))

    def loss(params: Any, clips: jax.Array) -> jax.Array:
        return model.apply({"params": params}, clips).sum()

    clips = jax.ShapeDtypeStruct((1, *CLIP, 3), jnp.float32)
    return dot_flops(jax.make_jaxpr(jax.grad(loss) if train else loss)(params, clips).jaxpr)


def test_counts_are_those_of_the_traced_model() -> None:
    model = create_model("swin_tiny", 5, **TINY)
    macs = forward_macs(model, CLIP)
    assert traced_flops("none", train=False) == 2 * macs.total
    # The pixels need no gradient, but by convention a step counts as three forward passes.
    assert traced_flops("none", train=True) == model_flops(model, CLIP) - 2 * macs.patch_embed


@pytest.mark.long
@pytest.mark.parametrize("remat", [name for name in REMAT if name != "none"])
def test_recomputed_flops_are_those_of_the_remat_policy(remat: str) -> None:
    model = create_model("swin_tiny", 5, **TINY, remat=remat)
    more = traced_flops(remat, train=True) - traced_flops("none", train=True)
    assert more > 0
    assert more == hardware_flops(model, CLIP) - model_flops(model, CLIP)
