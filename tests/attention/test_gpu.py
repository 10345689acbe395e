"""Tests of the cuDNN implementation, whose operands are multiplied by XLA here.

The result equals `xla` in values and in every gradient.
"""

import logging
import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sharded_attention
from attention_operands import TOLERANCES, operands, value_and_gradients

from vswin_jax.attention import WindowGeometry, gpu, implementations, window_attention
from vswin_jax.attention.window_attention import resolve_implementation
from vswin_jax.errors import InputError
from vswin_jax.runtime import target_platform

# grid, window and shift, as `WindowGeometry.create` takes them
GRIDS = {
    "regular": ((2, 4, 4), (2, 2, 4), (0, 0, 0)),
    "shifted": ((4, 4, 8), (2, 2, 4), (1, 1, 2)),
    "padded": ((3, 3, 5), (2, 2, 4), (1, 1, 2)),
    "clamped": ((1, 4, 3), (2, 2, 4), (1, 1, 2)),
    "odd": ((1, 6, 3), (1, 3, 3), (0, 1, 1)),
}


def assert_equal_to_xla(geometry: WindowGeometry, heads: int, dim: int, dtype: str) -> None:
    ids = geometry.segment_ids
    shape = (2, geometry.num_windows, geometry.tokens)
    qkv, bias, weights = operands(shape, heads, dim, dtype)
    segment_ids = None if ids is None else jnp.asarray(ids)
    ours = value_and_gradients(
        lambda qkv, bias: gpu.attend(qkv, bias, segment_ids, dim**-0.5, "xla"), qkv, bias, weights
    )
    expected = value_and_gradients(
        lambda qkv, bias: window_attention(qkv, bias, ids, implementation="xla"),
        qkv.astype(jnp.float32),
        bias,
        weights,
    )
    assert [x.dtype for x in ours] == [qkv.dtype] * 4 + [jnp.float32]
    for name, a, b in zip(("out", "q", "k", "v", "bias"), ours, expected, strict=True):
        error = np.linalg.norm(a.astype(jnp.float32) - b) / max(np.linalg.norm(b), 0.1)
        assert error < TOLERANCES[dtype], (name, error)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("kind", GRIDS)
def test_every_kind_of_window_equals_xla(kind: str, dtype: str) -> None:
    geometry = WindowGeometry.create(*GRIDS[kind])
    assert geometry.is_shifted == (kind != "regular")
    assert geometry.tokens % 2 == (kind == "odd")
    assert_equal_to_xla(geometry, 3, 12 if kind == "padded" else 8, dtype)


def test_a_window_of_the_published_size_equals_xla() -> None:
    geometry = WindowGeometry.create((8, 14, 7), (8, 7, 7), (4, 3, 3))
    assert_equal_to_xla(geometry, 2, 32, "bfloat16")


@pytest.mark.long
@pytest.mark.parametrize(
    ("tokens", "dim", "has_segments", "padded"),
    [(392, 32, False, (392, 32)), (392, 32, True, (392, 40)), (49, 12, True, (50, 24))],
)
def test_operands_are_padded_to_sizes_that_cudnn_supports(
    tokens: int, dim: int, has_segments: bool, padded: tuple[int, int]
) -> None:
    qkv, bias, _ = operands((2, 3, tokens), 4, dim, "bfloat16")
    segment_ids = jnp.zeros((3, tokens), jnp.int8) if has_segments else None
    *tensors, bias = gpu.plain_attention_operands(qkv, bias, segment_ids, dim**-0.5)
    assert [x.shape for x in tensors] == [(6, padded[0], 4, padded[1])] * 3
    assert bias.shape == (1, 4, padded[0], padded[0])
    assert {x.dtype for x in (*tensors, bias)} == {jnp.dtype("bfloat16")}


def test_codes_of_the_8_segments() -> None:
    # One-hot codes of length sqrt(100 / 0.5): their products times 0.5 are 100 or 0.
    codes = gpu._segment_codes(jnp.arange(8)[None], 0.5)[0]
    np.testing.assert_allclose(codes @ codes.T * 0.5, 100 * np.eye(8), rtol=1e-6)


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Make the choice of an implementation find an H100 whose cuDNN has every kernel."""
    for module in (gpu, implementations, target_platform):
        monkeypatch.setattr(module, "target_platform", lambda mesh=None: "gpu")
    monkeypatch.setattr(gpu, "_local_capability", lambda: (9, 0))
    monkeypatch.setattr(gpu, "_cudnn_failure", lambda tokens, width: None)
    return monkeypatch


def auto_choice(dtype: str = "bfloat16", dim: int = 32, has_dropout: bool = False) -> str:
    qkv = jax.ShapeDtypeStruct((2, 4, 392, 3, 4, dim), dtype)
    segment_ids = jax.ShapeDtypeStruct((4, 392), jnp.int8)
    return resolve_implementation("auto", qkv, segment_ids, 0.2, has_dropout)


def test_auto_chooses_cudnn_on_a_gpu(on_a_gpu: pytest.MonkeyPatch) -> None:
    assert auto_choice() == "gpu"
    assert auto_choice("float32") == "xla"
    assert auto_choice(has_dropout=True) == "xla"
    assert auto_choice(dim=248) == "gpu"
    assert auto_choice(dim=256) == "xla"  # 264 with the segment codes


def test_auto_on_older_gpus(on_a_gpu: pytest.MonkeyPatch) -> None:
    on_a_gpu.setattr(gpu, "_local_capability", lambda: (8, 0))
    assert auto_choice() == "gpu"
    assert auto_choice(dim=128) == "xla"
    on_a_gpu.setattr(gpu, "_local_capability", lambda: (7, 5))
    assert auto_choice() == "xla"


def test_auto_for_a_gpu_of_another_machine_does_not_try_cudnn(on_a_gpu: pytest.MonkeyPatch) -> None:
    on_a_gpu.setattr(gpu, "_local_capability", lambda: None)
    on_a_gpu.setattr(gpu, "_cudnn_failure", lambda tokens, width: "no GPU")
    assert auto_choice() == "xla"
    mesh = SimpleNamespace(abstract_device=SimpleNamespace(device_kind="NVIDIA H200"), empty=False)
    on_a_gpu.setattr(jax.sharding, "get_abstract_mesh", lambda: mesh)
    assert auto_choice() == "gpu"


def test_reason_against_cudnn_is_logged_once(
    on_a_gpu: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    implementations._log_unsupported.cache_clear()
    on_a_gpu.setattr(gpu, "_cudnn_failure", lambda tokens, width: f"no kernel of {tokens}, {width}")
    with caplog.at_level(logging.INFO, "vswin_jax"):
        assert [auto_choice(), auto_choice()] == ["xla", "xla"]
    assert [r.getMessage() for r in caplog.records] == [
        "attention 'gpu' is not used: no kernel of 392, 40"
    ]


def test_cudnn_kernels_are_tried_by_compiling() -> None:
    failures: list[str | None] = []

    @jax.jit
    def traced(x: jax.Array) -> jax.Array:
        failures.append(gpu._cudnn_failure(6, 8))
        return x

    traced(jnp.zeros(()))
    assert failures == ["cuDNN has no kernel for windows of 6 tokens: cuDNN is not detected."]


@pytest.mark.parametrize("shifted", [False, True])
def test_custom_calls_of_cudnn(monkeypatch: pytest.MonkeyPatch, shifted: bool) -> None:
    # JAX's own checks, and its lowering, for a GPU that this machine need not have.
    jax_cudnn = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
    monkeypatch.setattr(jax_cudnn, "check_cudnn_version", lambda: 91300)
    monkeypatch.setattr(jax_cudnn, "check_compute_capability", lambda capability: True)
    qkv, bias, weights = operands((2, 3, 49), 4, 12, "bfloat16")
    segment_ids = jnp.zeros((3, 49), jnp.int8) if shifted else None

    def loss(qkv: jax.Array, bias: jax.Array) -> jax.Array:
        return (gpu.attend(qkv, bias, segment_ids, 12**-0.5) * weights).sum()

    traced = jax.jit(jax.grad(loss, (0, 1))).trace(qkv, bias)
    program = traced.lower(lowering_platforms=("cuda",)).as_text()
    calls = re.findall(r"custom_call @__cudnn\$(\w+)\(.*-> \((.*)\)$", program, re.MULTILINE)
    assert [name for name, _ in calls] == [
        "fmhaScaleBiasSoftmax",
        "fmhaScaleBiasSoftmaxBackward",
    ]
    # The gradient of the bias leaves cuDNN summed over the six windows, in its own dtype.
    width = 24 if shifted else 16
    tensor, bias_grad = f"tensor<6x4x50x{width}xbf16>", "tensor<1x4x50x50xbf16>"
    assert calls[1][1].split(", ")[:4] == [tensor, tensor, tensor, bias_grad]


@pytest.mark.parametrize(
    ("dtype", "has_dropout", "reason"),
    [
        ("bfloat16", False, "it needs an NVIDIA GPU, and this program is for cpu"),
        ("float32", False, "it takes bfloat16, not float32"),
        ("bfloat16", True, "it does not drop attention weights"),
    ],
)
def test_error_if_named_but_unsupported(dtype: str, has_dropout: bool, reason: str) -> None:
    qkv, bias, _ = operands((1, 1, 4), 1, 8, dtype)
    arguments = {"dropout_key": jax.random.key(0), "dropout_rate": 0.1} if has_dropout else {}
    with pytest.raises(InputError, match=f"'gpu' cannot be used: {reason}. Use 'auto'"):
        window_attention(qkv, bias, None, implementation="gpu", **arguments)


def test_several_devices_need_a_mesh(on_a_gpu: pytest.MonkeyPatch) -> None:
    on_a_gpu.setattr(jax, "device_count", lambda: 8)
    assert auto_choice() == "xla"
    qkv, bias, _ = operands((1, 1, 4), 1, 8, "bfloat16")
    with pytest.raises(InputError, match="several devices, and no mesh is set"):
        window_attention(qkv, bias, None, implementation="gpu")


RECORD_SHAPES = """
from vswin_jax.attention import gpu
plain_attention_operands = gpu.plain_attention_operands
def recorded(*arguments):
    tensors = plain_attention_operands(*arguments)
    local.add(tensors[0].shape)
    return tensors
gpu.plain_attention_operands = recorded
attend = functools.partial(gpu.attend, segment_ids=ids, scale=0.25, implementation="xla")
"""


@pytest.mark.long
def test_every_device_of_a_mesh_attends_in_its_own_shard() -> None:
    report = sharded_attention.report(RECORD_SHAPES)
    # 1 clip x 2 windows, 9 tokens and 1 of padding, 2 heads, 16 channels and 8 of segment codes
    assert report["local"] == [[2, 10, 2, 24]]
    assert max(report["errors"]) < 1e-4
    # The gradient of the bias is the only sum.
    assert report["collectives"] == ["all-reduce"]
