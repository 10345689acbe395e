"""Window attention on NVIDIA GPUs by cuDNN, whose kernels keep the logits on the chip.

cuDNN adds one bias to all windows and has no other mask that fits, so the segments of shifted
windows are encoded in extra channels. Queries and keys get a one-hot code of their segment, of a
length that adds 100 to the logits within a segment. Softmax does not change if a constant is added
to all keys that a query may attend to, and keys whose logits are 100 less are as good as masked.
"""

import functools
import re
import threading

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vswin_jax.attention.inputs import QkvOrShape, SegmentIdsOrShape
from vswin_jax.runtime.hardware import chip_of
from vswin_jax.runtime.target_platform import target_platform, targets_gpu
from vswin_jax.sharding import shard_map_wrappers

# At most 8 segments meet in a window: see `WindowGeometry.segment_ids`.
MAX_SEGMENTS = 8
SAME_SEGMENT_LOGIT = 100.0
# Bias towards tokens that pad a window. Finite, because a row of -inf would have no softmax.
_PADDING_BIAS = -1e4


def unsupported_reason(
    qkv: QkvOrShape, segment_ids: SegmentIdsOrShape | None, scale: float, has_dropout: bool
) -> str | None:
    """Return the reason why cuDNN cannot compute this attention, or None if it can."""
    if has_dropout:
        return "it does not drop attention weights"
    if qkv.dtype != jnp.bfloat16:
        return f"it takes bfloat16, not {qkv.dtype}"
    if scale <= 0:
        return f"it takes a scale above 0, not {scale}"
    capability, width = _compute_capability(), _padded_dim(qkv, segment_ids)
    reason = _hardware_reason(capability, width) or shard_map_wrappers.unsupported_reason()
    if reason is not None or _local_capability() is None:
        # A program may be compiled for GPUs that this machine lacks; cuDNN cannot be tried then.
        return reason
    return _cudnn_failure(_round_up_to_even(qkv.shape[2]), width)


def _hardware_reason(capability: tuple[int, int] | None, width: int) -> str | None:
    """Return the reason why the GPU cannot attend with `width` channels per head, or None."""
    if not targets_gpu() or capability is None:
        return f"it needs an NVIDIA GPU, and this program is for {target_platform()}"
    if capability < (8, 0):
        return f"it needs compute capability 8.0, and this GPU has {'.'.join(map(str, capability))}"
    limit = 256 if capability >= (9, 0) else 128
    if width > limit:
        return f"it takes at most {limit} channels per head, and with segment codes it has {width}"
    return None


def attend(
    qkv: Float[Array, "B W N 3 heads dim"],
    bias: Float[Array, "heads N N"],
    segment_ids: Int[Array, "W N"] | None,
    scale: float,
    implementation: str = "cudnn",
) -> Float[Array, "B W N heads dim"]:
    """Return attention inside each window.

    The bias is rounded to the dtype of `qkv`; cuDNN sums its gradient over the windows.
    `implementation` is that of `jax.nn.dot_product_attention`: the same tensors go through "xla"
    on any platform.
    """
    attend_shard = functools.partial(_attend_shard, scale=scale, implementation=implementation)
    return shard_map_wrappers.shard_map_attention(attend_shard, qkv, bias, segment_ids)


def _attend_shard(
    qkv: jax.Array,
    bias: jax.Array,
    segment_ids: jax.Array | None,
    scale: float,
    implementation: str,
) -> jax.Array:
    batch, windows, tokens, _, heads, dim = qkv.shape
    query, key, value, bias = plain_attention_operands(qkv, bias, segment_ids, scale)
    out = jax.nn.dot_product_attention(
        query, key, value, bias, scale=scale, implementation=implementation
    )
    return out[:, :tokens, :, :dim].reshape(batch, windows, tokens, heads, dim)


def plain_attention_operands(
    qkv: Float[Array, "B W N 3 heads dim"],
    bias: Float[Array, "heads N N"],
    segment_ids: Int[Array, "W N"] | None,
    scale: float,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Convert windows with segments to the operands of plain attention with one bias.

    The channels of a head grow by the segment codes and to a multiple of 8, and the tokens of a
    window to an even number: cuDNN requires both if the bias has a gradient.

    Returns:
      Query, key and value `[B * W, N', heads, dim']`, and the bias `[1, heads, N', N']`, all in the
      dtype of `qkv`. The result is in the first N tokens and dim channels of the attention, whose
      logits must be multiplied by the positive `scale`.
    """
    batch, windows, tokens, _, heads, dim = qkv.shape
    width, extra = _padded_dim(qkv, segment_ids), _round_up_to_even(tokens) - tokens
    qkv = jnp.pad(qkv, [(0, 0), (0, 0), (0, extra), (0, 0), (0, 0), (0, width - dim)])
    if segment_ids is not None:
        codes = _segment_codes(segment_ids, scale).astype(qkv.dtype)
        codes = jnp.pad(codes, [(0, 0), (0, extra), (dim, width - dim - MAX_SEGMENTS)])
        is_query_or_key = jnp.array([1, 1, 0], qkv.dtype)[:, None, None]
        # Added rather than concatenated, so that XLA writes query, key and value in one pass each.
        qkv = qkv + codes[:, :, None, None, :] * is_query_or_key
    query, key, value = jnp.moveaxis(qkv, 3, 0).reshape(3, batch * windows, -1, heads, width)
    bias = jnp.pad(bias, [(0, 0), (0, extra), (0, extra)], constant_values=_PADDING_BIAS)
    return query, key, value, bias[None].astype(qkv.dtype)


def _segment_codes(segment_ids: jax.Array, scale: float) -> jax.Array:
    """Return codes `[W, N, 8]` of `[W, N]`, whose products times `scale` are 100 in a segment."""
    return jax.nn.one_hot(segment_ids, MAX_SEGMENTS) * (SAME_SEGMENT_LOGIT / scale) ** 0.5


def _padded_dim(qkv: QkvOrShape, segment_ids: SegmentIdsOrShape | None) -> int:
    """Return the channels of a head with its segment code, a multiple of 8."""
    return -(-(qkv.shape[-1] + (0 if segment_ids is None else MAX_SEGMENTS)) // 8) * 8


def _round_up_to_even(tokens: int) -> int:
    return tokens + tokens % 2


def _compute_capability() -> tuple[int, int] | None:
    """Return the compute capability of the target GPU, or None for another platform."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    chip = None if device is None else chip_of(device.device_kind)
    return _local_capability() or (chip.compute_capability if chip else None)


def _local_capability() -> tuple[int, int] | None:
    """Return the compute capability of this machine's NVIDIA GPU, or None without one."""
    found = re.fullmatch(r"(\d+)\.(\d+)", getattr(jax.local_devices()[0], "compute_capability", ""))
    return (int(found[1]), int(found[2])) if found else None


@functools.cache
def _cudnn_failure(tokens: int, width: int) -> str | None:
    """Return the reason why cuDNN has no forward or backward kernel for such windows, or None.

    The kernels that cuDNN has depend on its version, the driver and the GPU, so a program of one
    window is compiled to find out.
    """
    reasons: list[str] = []

    def try_to_compile() -> None:
        try:
            _compile_one_window(tokens, width)
        except Exception as error:  # Any failure to compile means that cuDNN cannot be used.
            line = str(error).strip().partition("\n")[0]
            reasons.append(f"cuDNN has no kernel for windows of {tokens} tokens: {line}")

    # Tracing state and the mesh are local to a thread, so a new thread is free of both.
    thread = threading.Thread(target=try_to_compile)
    thread.start()
    thread.join()
    return reasons[0] if reasons else None


def _compile_one_window(tokens: int, width: int) -> None:
    def loss(query: jax.Array, key: jax.Array, value: jax.Array, bias: jax.Array) -> jax.Array:
        out = jax.nn.dot_product_attention(query, key, value, bias, implementation="cudnn")
        return out.astype(jnp.float32).sum()

    tensor = jax.ShapeDtypeStruct((1, tokens, 1, width), jnp.bfloat16)
    bias = jax.ShapeDtypeStruct((1, 1, tokens, tokens), jnp.bfloat16)
    jax.jit(jax.grad(loss, (0, 1, 2, 3))).lower(tensor, tensor, tensor, bias).compile()
