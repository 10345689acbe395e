"""Blocks by groups of windows or heads, on a CPU outside training: same results, less memory."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_params import random_params
from two_stages import CLIPS, TWO_STAGES, random_clips

from vswin_jax.attention import head_groups
from vswin_jax.models import SwinTransformer3D, create_model, init_params, window_groups
from vswin_jax.runtime import target_platform

# Windows have 18 tokens with 32 hidden channels: 5 windows fit, which divide no window count here.
FIVE_WINDOWS = 5 * 18 * 32 * 4


@pytest.fixture
def small_groups(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(window_groups, "_HIDDEN_BYTES", FIVE_WINDOWS)
    monkeypatch.setattr(head_groups, "CHUNK_HEADS", 1)
    jax.clear_caches()
    yield
    jax.clear_caches()


def model(**settings: Any) -> SwinTransformer3D:
    return create_model("swin_tiny", 5, **(TWO_STAGES | settings))


@pytest.fixture(scope="module")
def params() -> Any:
    return random_params(model())


def temporaries(extent: tuple[int, int, int], **settings: Any) -> int:
    """Return the temporary bytes of a forward pass of one clip."""
    swin = model(**settings)
    params = jax.eval_shape(lambda: init_params(swin, jax.random.key(0)))
    clips = jax.ShapeDtypeStruct((1, *extent, 3), jnp.float32)
    compiled = jax.jit(lambda p, x: swin.apply({"params": p}, x)).lower(params, clips).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def loops(function: Any, *args: Any) -> int:
    return str(jax.make_jaxpr(function)(*args)).count(" scan[")


@pytest.mark.usefixtures("small_groups")
@pytest.mark.parametrize(
    "extent", [*CLIPS[2:], *(pytest.param(clip, marks=pytest.mark.long) for clip in CLIPS[:2])]
)
def test_every_feature_map_equals_that_without_groups(params: Any, extent: Any) -> None:
    def maps(name: str) -> dict[str, jax.Array]:
        swin = model(tokenwise=name, attention="xla")
        run = jax.jit(lambda p, x: swin.apply({"params": p}, x, method="features"))
        return run(params, random_clips(extent))

    ours, plain = maps("chunked"), maps("xla")
    for name, values in plain.items():
        np.testing.assert_allclose(ours[name], values, atol=2e-6 * np.abs(values).max())


@pytest.mark.long
@pytest.mark.usefixtures("small_groups")
def test_gradients_outside_training_equal_those_without_groups(params: Any) -> None:
    def gradients(name: str) -> Any:
        swin = model(tokenwise=name)
        return jax.jit(
            jax.grad(lambda p: jnp.sum(swin.apply({"params": p}, random_clips(CLIPS[0])) ** 2))
        )(params)

    for ours, plain in zip(*map(jax.tree.leaves, map(gradients, ("chunked", "xla"))), strict=True):
        np.testing.assert_allclose(ours, plain, atol=2e-5 * max(np.abs(plain).max(), 1e-3))


@pytest.mark.long
@pytest.mark.usefixtures("small_groups")
def test_groups_are_used_on_one_cpu_outside_training(
    params: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def groups(name: str, train: bool = False, extent: Any = CLIPS[0]) -> int:
        swin = model(tokenwise=name, attention="xla", drop_path_rate=0.0)
        rngs = {"dropout": jax.random.key(0)}
        return loops(
            lambda x: swin.apply({"params": params}, x, train, rngs=rngs), random_clips(extent)
        )

    assert (groups("auto"), groups("chunked"), groups("xla")) == (5, 5, 0)
    assert (groups("auto", train=True), groups("chunked", train=True)) == (0, 0)
    # A padded map is not split into groups of windows; the second stage has two groups of heads.
    assert (groups("auto", extent=CLIPS[2]), groups("xla", extent=CLIPS[2])) == (2, 0)
    monkeypatch.setattr(jax, "device_count", lambda: 2)
    assert (groups("auto"), groups("chunked")) == (0, 5)
    monkeypatch.setattr(target_platform, "target_platform", lambda mesh=None: "gpu")
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    assert groups("auto") == 0


def test_groups_that_would_be_too_small_are_not_used() -> None:
    def group_size(windows: int) -> int:
        tokens = jax.ShapeDtypeStruct((1, windows, 392, 96), jnp.float32)
        return window_groups.windows_per_group(tokens, 384) or windows

    assert [group_size(n) for n in (64, 9, 13, 14, 17, 19, 22)] == [8, 9, 13, 7, 17, 19, 11]


def test_activations_between_layers_exist_for_one_group_at_a_time() -> None:
    """A long clip in real windows: without groups queries, keys and values are the peak."""
    stage = {"embed_dim": 96, "depths": (2,), "num_heads": (3,), "window_size": (8, 7, 7)}

    clip = (64, 112, 112)
    assert temporaries(clip, **stage) < 0.4 * temporaries(clip, **stage, tokenwise="xla")


def test_the_biases_of_many_heads_never_exist_at_once() -> None:
    """With the heads of the last stage of Swin-T the bias is 15 MB, and its copy half of that."""
    stage = {"embed_dim": 768, "depths": (2,), "num_heads": (24,), "window_size": (8, 7, 7)}

    clip = (16, 28, 28)
    assert temporaries(clip, **stage) < 0.75 * temporaries(clip, **stage, tokenwise="xla")
