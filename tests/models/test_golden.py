"""Outputs and every stage against the reference, which ran in float64 on random weights."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vswin_jax.attention import IMPLEMENTATIONS
from vswin_jax.models import SwinTransformer3D, create_model
from vswin_jax.weights import from_state_dict

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
CASES = json.loads((GOLDEN / "meta.json").read_text())


def load(case: str) -> tuple[dict[str, np.ndarray], dict[str, object]]:
    arrays = dict(np.load(GOLDEN / f"{case}.npz"))
    state = {k.removeprefix("param/"): v for k, v in arrays.items() if k.startswith("param/")}
    return arrays, from_state_dict(state)


def build(case: str, **overrides: object) -> SwinTransformer3D:
    meta = CASES[case]
    return create_model(
        "swin_tiny",
        num_classes=0,
        embed_dim=meta["embed"],
        depths=meta["depths"],
        num_heads=meta["heads"],
        window_size=meta["window"],
        **overrides,
    )


def compare(case: str, **overrides: object) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return (ours, the reference's) of each stage and of the output, both channels last."""
    arrays, params = load(case)
    model = build(case, **overrides)
    clips = jnp.asarray(arrays["input"].transpose(0, 2, 3, 4, 1))
    maps = jax.jit(lambda p, x: model.apply({"params": p}, x, method="features"))(params, clips)
    names = {f"stage{i}": f"stage{i}_after_merge" for i in range(len(CASES[case]["depths"]))}
    names["output"] = "final"
    return {
        theirs: (np.asarray(maps[ours], np.float64), arrays[theirs].transpose(0, 2, 3, 4, 1))
        for theirs, ours in names.items()
    }


# cuDNN supports bfloat16 only.
@pytest.mark.parametrize(
    "attention",
    [
        pytest.param(name, marks=[pytest.mark.long] if name == "pallas_tpu" else [])
        for name in IMPLEMENTATIONS
        if name != "gpu"
    ],
)
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=[pytest.mark.long] if case == "four_stage" else [])
        for case in CASES
    ],
)
def test_float32_agrees_to_1e_5(case: str, attention: str) -> None:
    for name, (ours, theirs) in compare(case, attention=attention).items():
        np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=0, err_msg=name)


# The interpreter of the TPU kernels is slow; their own tests compare them in bfloat16.
@pytest.mark.long
@pytest.mark.parametrize("attention", ["xla", "chunked"])
@pytest.mark.parametrize("case", CASES)
def test_bfloat16_agrees_to_3e_2(case: str, attention: str) -> None:
    for name, (ours, theirs) in compare(case, attention=attention, dtype="bfloat16").items():
        error = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
        assert error < 3e-2, f"{name}: {error}"


def test_remat_changes_nothing() -> None:
    for name, (ours, theirs) in compare("plain", remat="block").items():
        np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=0, err_msg=name)
