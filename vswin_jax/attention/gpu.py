"""Window attention on NVIDIA GPUs by cuDNN, whose kernels keep the logits on the chip.

cuDNN adds one bias to all windows and has no other mask that fits, so the regions of shifted
windows are marked in extra channels: queries and keys get a one-hot code of their region, of a
length that adds 100 to the logits within a region. Softmax does not see what is added to all keys
that a query may attend to, and what is 100 less is as good as masked.
"""

import functools
import re
import threading

import jax
import jax.numpy as jnp

from vswin_jax.runtime.hardware import chip_of
from vswin_jax.runtime.target_platform import target_platform, targets_gpu
from vswin_jax.sharding import per_device

# At most 8 regions meet in a window, see `WindowGeometry.region_ids`.
REGIONS = 8
SAME_REGION = 100.0
# The bias towards a token that only fills up a window; a row of -inf would have no softmax.
_NOBODY = -1e4


def refusal(qkv: jax.Array, regions: jax.Array | None, scale: float, drops: bool) -> str | None:
    """Why cuDNN cannot attend in windows `[B, W, N, 3, heads, dim]`; None where it can."""
    if drops:
        return "it does not drop attention weights"
    if qkv.dtype != jnp.bfloat16:
        return f"it takes bfloat16, not {qkv.dtype}"
    if scale <= 0:
        return f"it takes a scale above 0, not {scale}"
    capability = _compute_capability()
    if not targets_gpu() or capability is None:
        return f"it needs an NVIDIA GPU, and this program is for {target_platform()}"
    if capability < (8, 0):
        return f"it needs compute capability 8.0, and this GPU has {'.'.join(map(str, capability))}"
    width, most = _width(qkv, regions), 256 if capability >= (9, 0) else 128
    if width > most:
        return f"a head, with the marks of regions, has {width} channels, and {most} is the limit"
    reason = per_device.refusal()
    if reason is not None or _local_capability() is None:
        # GPUs that are not here are compiled for, and nobody can ask them.
        return reason
    return _failure(_even(qkv.shape[2]), width)


def attend(
    qkv: jax.Array,
    bias: jax.Array,
    regions: jax.Array | None,
    scale: float,
    implementation: str = "cudnn",
) -> jax.Array:
    """Attention in windows `[B, W, N, 3, heads, dim]` to `[B, W, N, heads, dim]`.

    The bias is rounded to the dtype of `qkv`; its gradient is summed over windows by cuDNN.
    `implementation` is that of `jax.nn.dot_product_attention`: the same tensors go through "xla"
    on any platform.
    """
    one = functools.partial(_on_one_device, scale=scale, implementation=implementation)
    return per_device.on_each_device(one, qkv, bias, regions)


def _on_one_device(
    qkv: jax.Array,
    bias: jax.Array,
    regions: jax.Array | None,
    scale: float,
    implementation: str,
) -> jax.Array:
    batch, windows, tokens, _, heads, dim = qkv.shape
    query, key, value, bias = augmented(qkv, bias, regions, scale)
    out = jax.nn.dot_product_attention(
        query, key, value, bias, scale=scale, implementation=implementation
    )
    return out[:, :tokens, :, :dim].reshape(batch, windows, tokens, heads, dim)


def augmented(
    qkv: jax.Array, bias: jax.Array, regions: jax.Array | None, scale: float
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """What plain attention with one bias is given instead of windows with regions.

    The channels of a head grow by the marks of `regions` and to a multiple of 8, the tokens of a
    window to an even number, as cuDNN wants them: where the bias has a gradient, too.

    Args:
      qkv: `[B, W, N, 3, heads, dim]`.
      bias: `[heads, N, N]`.
      regions: `[W, N]`, from 0 to 7, or None.
      scale: the positive factor that attention will have on its logits.

    Returns:
      Query, key and value `[B * W, N', heads, dim']`, and the bias `[1, heads, N', N']`, all in the
      dtype of `qkv`. The first N tokens and dim channels of attention are those of the windows.
    """
    batch, windows, tokens, _, heads, dim = qkv.shape
    width, more = _width(qkv, regions), _even(tokens) - tokens
    qkv = jnp.pad(qkv, [(0, 0), (0, 0), (0, more), (0, 0), (0, 0), (0, width - dim)])
    if regions is not None:
        marks = _marks(regions, scale).astype(qkv.dtype)
        marks = jnp.pad(marks, [(0, 0), (0, more), (dim, width - dim - REGIONS)])
        of_queries_and_keys = jnp.array([1, 1, 0], qkv.dtype)[:, None, None]
        # Added, not joined on: the compiler then writes each of the three in one pass.
        qkv = qkv + marks[:, :, None, None, :] * of_queries_and_keys
    query, key, value = jnp.moveaxis(qkv, 3, 0).reshape(3, batch * windows, -1, heads, width)
    bias = jnp.pad(bias, [(0, 0), (0, more), (0, more)], constant_values=_NOBODY)
    return query, key, value, bias[None].astype(qkv.dtype)


def _marks(regions: jax.Array, scale: float) -> jax.Array:
    """`[W, N]` to float32 `[W, N, 8]`, whose products times `scale` are 100 within a region."""
    return jax.nn.one_hot(regions, REGIONS) * (SAME_REGION / scale) ** 0.5


def _width(qkv: jax.Array, regions: jax.Array | None) -> int:
    """The channels of a head with its marks, a multiple of 8."""
    return -(-(qkv.shape[-1] + (0 if regions is None else REGIONS)) // 8) * 8


def _even(tokens: int) -> int:
    return tokens + tokens % 2


def _compute_capability() -> tuple[int, int] | None:
    """That of the GPU that the program is for; None where it is for none."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    chip = None if device is None else chip_of(device.device_kind)
    return _local_capability() or (chip.compute_capability if chip else None)


def _local_capability() -> tuple[int, int] | None:
    """That of this machine's NVIDIA GPU; None where there is none."""
    found = re.fullmatch(r"(\d+)\.(\d+)", getattr(jax.local_devices()[0], "compute_capability", ""))
    return (int(found[1]), int(found[2])) if found else None


@functools.cache
def _failure(tokens: int, width: int) -> str | None:
    """Why cuDNN has no kernel for such windows, forward or backward; None where it has.

    Which ones it has depends on its version, the driver and the GPU, so it is asked: a program of
    one window is compiled.
    """
    reasons: list[str] = []

    def ask() -> None:
        try:
            _compile(tokens, width)
        except Exception as error:  # Whatever it is, it is why there is no program.
            line = str(error).strip().partition("\n")[0]
            reasons.append(f"cuDNN has no kernel for windows of {tokens} tokens: {line}")

    # In a thread of its own it sees nothing of the program being traced, nor of its mesh.
    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    return reasons[0] if reasons else None


def _compile(tokens: int, width: int) -> None:
    def loss(query: jax.Array, key: jax.Array, value: jax.Array, bias: jax.Array) -> jax.Array:
        out = jax.nn.dot_product_attention(query, key, value, bias, implementation="cudnn")
        return out.astype(jnp.float32).sum()

    tensor = jax.ShapeDtypeStruct((1, tokens, 1, width), jnp.bfloat16)
    bias = jax.ShapeDtypeStruct((1, 1, tokens, tokens), jnp.bfloat16)
    jax.jit(jax.grad(loss, (0, 1, 2, 3))).lower(tensor, tensor, tensor, bias).compile()
