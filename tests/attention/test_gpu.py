"""What cuDNN is given, computed by XLA here: equal to `xla` in values and in every gradient."""

import logging
import re
from collections.abc import Callable
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import spread_attention

from vswin_jax.attention import WindowGeometry, gpu, implementations, window_attention
from vswin_jax.attention.window_attention import choose
from vswin_jax.errors import InputError
from vswin_jax.runtime import target_platform

pytestmark = pytest.mark.usefixtures("quick_compiler")

# grid, window and shift, as `WindowGeometry.create` takes them
GRIDS = {
    "regular": ((2, 4, 4), (2, 2, 4), (0, 0, 0)),
    "shifted": ((4, 4, 8), (2, 2, 4), (1, 1, 2)),
    "padded": ((3, 3, 5), (2, 2, 4), (1, 1, 2)),
    "clamped": ((1, 4, 3), (2, 2, 4), (1, 1, 2)),
    "odd": ((1, 6, 3), (1, 3, 3), (0, 1, 1)),
}
TOLERANCES = {"float32": 1e-4, "bfloat16": 2e-2}


def operands(
    shape: tuple[int, int, int], heads: int, dim: int, dtype: str
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """qkv, bias, and weights of the outputs, whose sum is what is differentiated."""
    keys = jax.random.split(jax.random.key(0), 3)
    qkv = jax.random.normal(keys[0], (*shape, 3, heads, dim), dtype)
    bias = jax.random.normal(keys[1], (heads, shape[-1], shape[-1]))
    return qkv, bias, jax.random.normal(keys[2], (*shape, heads, dim))


def value_and_gradients(
    attend: Callable[[jax.Array, jax.Array], jax.Array],
    qkv: jax.Array,
    bias: jax.Array,
    weights: jax.Array,
) -> tuple[jax.Array, ...]:
    """The outputs, and the gradients of queries, keys, values and bias."""

    def loss(qkv: jax.Array, bias: jax.Array) -> tuple[jax.Array, jax.Array]:
        out = attend(qkv, bias)
        return (out * weights).sum(), out

    (_, out), (qkv, bias) = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(qkv, bias)
    return out, *jnp.moveaxis(qkv, 3, 0), bias


def assert_equal_to_xla(geometry: WindowGeometry, heads: int, dim: int, dtype: str) -> None:
    ids = geometry.region_ids
    shape = (2, geometry.num_windows, geometry.tokens)
    qkv, bias, weights = operands(shape, heads, dim, dtype)
    regions = None if ids is None else jnp.asarray(ids)
    ours = value_and_gradients(
        lambda qkv, bias: gpu.attend(qkv, bias, regions, dim**-0.5, "xla"), qkv, bias, weights
    )
    wanted = value_and_gradients(
        lambda qkv, bias: window_attention(qkv, bias, ids, implementation="xla"),
        *(qkv.astype(jnp.float32), bias, weights),
    )
    assert [x.dtype for x in ours] == [qkv.dtype] * 4 + [jnp.float32]
    for name, a, b in zip(("out", "q", "k", "v", "bias"), ours, wanted, strict=True):
        error = np.linalg.norm(a.astype(jnp.float32) - b) / max(np.linalg.norm(b), 0.1)
        assert error < TOLERANCES[dtype], (name, error)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("kind", GRIDS)
def test_windows_of_every_kind(kind: str, dtype: str) -> None:
    geometry = WindowGeometry.create(*GRIDS[kind])
    assert geometry.is_shifted == (kind != "regular")
    assert geometry.tokens % 2 == (kind == "odd")
    assert_equal_to_xla(geometry, 3, 12 if kind == "padded" else 8, dtype)


def test_a_window_of_the_published_size() -> None:
    geometry = WindowGeometry.create((8, 14, 7), (8, 7, 7), (4, 3, 3))
    assert_equal_to_xla(geometry, 2, 32, "bfloat16")


@pytest.mark.parametrize(
    ("tokens", "dim", "marked", "grown"),
    [(392, 32, False, (392, 32)), (392, 32, True, (392, 40)), (49, 12, True, (50, 24))],
)
def test_sizes_that_cudnn_takes(
    tokens: int, dim: int, marked: bool, grown: tuple[int, int]
) -> None:
    qkv, bias, _ = operands((2, 3, tokens), 4, dim, "bfloat16")
    regions = jnp.zeros((3, tokens), jnp.int8) if marked else None
    *tensors, bias = gpu.augmented(qkv, bias, regions, dim**-0.5)
    assert [x.shape for x in tensors] == [(6, grown[0], 4, grown[1])] * 3
    assert bias.shape == (1, 4, grown[0], grown[0])
    assert {x.dtype for x in (*tensors, bias)} == {jnp.dtype("bfloat16")}


def test_marks_of_the_8_regions() -> None:
    # One-hot codes of length sqrt(100 / 0.5): their products times 0.5 are 100 or 0.
    marks = gpu._marks(jnp.arange(8)[None], 0.5)[0]
    np.testing.assert_allclose(marks @ marks.T * 0.5, 100 * np.eye(8), rtol=1e-6)


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """As far as the choice can see, this is an H100 whose cuDNN has every kernel."""
    for module in (gpu, implementations, target_platform):
        monkeypatch.setattr(module, "target_platform", lambda mesh=None: "gpu")
    monkeypatch.setattr(gpu, "_local_capability", lambda: (9, 0))
    monkeypatch.setattr(gpu, "_failure", lambda tokens, width: None)
    return monkeypatch


def chosen(dtype: str = "bfloat16", dim: int = 32, drops: bool = False) -> str:
    qkv = jax.ShapeDtypeStruct((2, 4, 392, 3, 4, dim), dtype)
    regions = jax.ShapeDtypeStruct((4, 392), jnp.int8)
    return choose("auto", qkv, regions, 0.2, drops)


def test_auto_takes_it_on_a_gpu(on_a_gpu: pytest.MonkeyPatch) -> None:
    assert chosen() == "gpu"
    assert chosen("float32") == "xla"
    assert chosen(drops=True) == "xla"
    assert chosen(dim=248) == "gpu"
    assert chosen(dim=256) == "xla"  # 264 with the marks


def test_an_older_gpu(on_a_gpu: pytest.MonkeyPatch) -> None:
    on_a_gpu.setattr(gpu, "_local_capability", lambda: (8, 0))
    assert chosen() == "gpu"
    assert chosen(dim=128) == "xla"
    on_a_gpu.setattr(gpu, "_local_capability", lambda: (7, 5))
    assert chosen() == "xla"


def test_for_gpus_that_are_not_here_nobody_is_asked(on_a_gpu: pytest.MonkeyPatch) -> None:
    on_a_gpu.setattr(gpu, "_local_capability", lambda: None)
    on_a_gpu.setattr(gpu, "_failure", lambda tokens, width: "no GPU")
    assert chosen() == "xla"
    there = SimpleNamespace(abstract_device=SimpleNamespace(device_kind="NVIDIA H200"), empty=False)
    on_a_gpu.setattr(jax.sharding, "get_abstract_mesh", lambda: there)
    assert chosen() == "gpu"


def test_why_it_is_not_taken_is_logged_once(
    on_a_gpu: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    implementations._log_refusal.cache_clear()
    on_a_gpu.setattr(gpu, "_failure", lambda tokens, width: f"no kernel of {tokens}, {width}")
    with caplog.at_level(logging.INFO, "vswin_jax"):
        assert [chosen(), chosen()] == ["xla", "xla"]
    assert [r.getMessage() for r in caplog.records] == [
        "attention 'gpu' is not used: no kernel of 392, 40"
    ]


def test_cudnn_is_asked_for_its_kernels() -> None:
    answers: list[str | None] = []

    @jax.jit
    def traced(x: jax.Array) -> jax.Array:
        answers.append(gpu._failure(6, 8))
        return x

    traced(jnp.zeros(()))
    assert answers == ["cuDNN has no kernel for windows of 6 tokens: cuDNN is not detected."]


@pytest.mark.parametrize("shifted", [False, True])
def test_what_jax_hands_to_cudnn(monkeypatch: pytest.MonkeyPatch, shifted: bool) -> None:
    # JAX's own checks, and its lowering, for a GPU that is not here.
    of_jax = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
    monkeypatch.setattr(of_jax, "check_cudnn_version", lambda: 91300)
    monkeypatch.setattr(of_jax, "check_compute_capability", lambda capability: True)
    qkv, bias, weights = operands((2, 3, 49), 4, 12, "bfloat16")
    regions = jnp.zeros((3, 49), jnp.int8) if shifted else None

    def loss(qkv: jax.Array, bias: jax.Array) -> jax.Array:
        return (gpu.attend(qkv, bias, regions, 12**-0.5) * weights).sum()

    traced = jax.jit(jax.grad(loss, (0, 1))).trace(qkv, bias)
    program = traced.lower(lowering_platforms=("cuda",)).as_text()
    calls = re.findall(r"custom_call @__cudnn\$(\w+)\(.*-> \((.*)\)$", program, re.MULTILINE)
    assert [name for name, _ in calls] == [
        "fmhaScaleBiasSoftmax",
        "fmhaScaleBiasSoftmaxBackward",
    ]
    # The gradient of the bias leaves cuDNN summed over the six windows, in its own dtype.
    width = 24 if shifted else 16
    tensor, of_bias = f"tensor<6x4x50x{width}xbf16>", "tensor<1x4x50x50xbf16>"
    assert calls[1][1].split(", ")[:4] == [tensor, tensor, tensor, of_bias]


@pytest.mark.parametrize(
    ("dtype", "drops", "why"),
    [
        ("bfloat16", False, "it needs an NVIDIA GPU, and this program is for cpu"),
        ("float32", False, "it takes bfloat16, not float32"),
        ("bfloat16", True, "it does not drop attention weights"),
    ],
)
def test_by_name_where_it_cannot_be(dtype: str, drops: bool, why: str) -> None:
    qkv, bias, _ = operands((1, 1, 4), 1, 8, dtype)
    arguments = {"dropout_key": jax.random.key(0), "dropout_rate": 0.1} if drops else {}
    with pytest.raises(InputError, match=f"'gpu' cannot be used: {why}. Use 'auto'"):
        window_attention(qkv, bias, None, implementation="gpu", **arguments)


def test_several_devices_need_a_mesh(on_a_gpu: pytest.MonkeyPatch) -> None:
    on_a_gpu.setattr(jax, "device_count", lambda: 8)
    assert chosen() == "xla"
    qkv, bias, _ = operands((1, 1, 4), 1, 8, "bfloat16")
    with pytest.raises(InputError, match="several devices, and no mesh is set"):
        window_attention(qkv, bias, None, implementation="gpu")


WATCHED = """
from vswin_jax.attention import gpu
augmented = gpu.augmented
def watched(*operands):
    tensors = augmented(*operands)
    local.add(tensors[0].shape)
    return tensors
gpu.augmented = watched
attend = functools.partial(gpu.attend, regions=ids, scale=0.25, implementation="xla")
"""


def test_every_device_of_a_mesh_attends_in_what_it_holds() -> None:
    report = spread_attention.report(WATCHED)
    # 1 clip x 2 windows, 9 tokens and one that fills up, 2 heads, 16 channels and 8 of marks
    assert report["local"] == [[2, 10, 2, 24]]
    assert max(report["errors"]) < 1e-4
    # The gradient of the bias is the only sum.
    assert report["collectives"] == ["all-reduce"]
