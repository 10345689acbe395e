"""Worker of attention.py: our attention, tokamax's or PyTorch's SDPA in a process of its own.

All implementations get the packed projection [B, windows, N, 3, heads, dim], as the model computes
it, the bias [heads, N, N] in float32 and the segment ids of the windows. "Forward and backward"
includes the gradients of the projection and of the bias.
"""

import argparse
import functools
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from worker_process import catch_errors, serve_tasks

OUR_IMPLEMENTATIONS = ("xla", "chunked", "gpu")
JAX_IMPLEMENTATIONS = (*OUR_IMPLEMENTATIONS, "tokamax")
HEAD_DIM = 32
# One measurement repeats the call for about this many seconds.
SECONDS = 0.05


@dataclass(frozen=True)
class AttentionCase:
    """The window attention of one block.

    `segment_ids` has a row [tokens] for each window, or is None where windows are not shifted;
    `dtype` is "float32" or "bfloat16".
    """

    clips: int
    windows: int
    tokens: int
    heads: int
    segment_ids: list[list[int]] | None
    backward: bool
    dtype: str

    @property
    def qkv_shape(self) -> tuple[int, ...]:
        """The shape of the packed projection."""
        return (self.clips, self.windows, self.tokens, 3, self.heads, HEAD_DIM)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """The shape of the result."""
        return (self.clips, self.windows, self.tokens, self.heads, HEAD_DIM)


@dataclass(frozen=True)
class AttentionRunner:
    """A case that is ready to run.

    `call(times)` runs the case that often and returns when all has finished; `memory` is in bytes,
    without the inputs, or None where it is unknown.
    """

    call: Callable[[int], None]
    memory: int | None


def jax_function(case: AttentionCase, implementation: str) -> Callable[..., Any]:
    """Return a function of (qkv, bias, output gradient) that gives the result or both gradients."""
    import jax

    from vswin_jax.attention import window_attention

    ids = None if case.segment_ids is None else np.array(case.segment_ids, np.int8)
    if implementation == "tokamax":
        attend = functools.partial(_tokamax, segment_ids=ids)
    else:
        attend = functools.partial(window_attention, segment_ids=ids, implementation=implementation)

    def run(qkv: jax.Array, bias: jax.Array, output_grad: jax.Array) -> Any:
        out, vjp = jax.vjp(attend, qkv, bias)
        return vjp(output_grad) if case.backward else out

    return run


def _tokamax(qkv: Any, bias: Any, segment_ids: np.ndarray | None) -> Any:
    """Call tokamax, which chooses its implementation and broadcasts the bias and the mask."""
    import jax.numpy as jnp
    import tokamax

    query, key, value = jnp.moveaxis(qkv, 3, 0)
    mask = None
    if segment_ids is not None:
        mask = (segment_ids[:, :, None] == segment_ids[:, None, :])[None, :, None]
    return tokamax.dot_product_attention(query, key, value, bias=bias[None, None], mask=mask)


def jax_operands(case: AttentionCase) -> tuple[Any, Any, Any]:
    """Draw qkv, the bias and the gradient of the result."""
    import jax

    keys = jax.random.split(jax.random.key(0), 3)
    bias = jax.random.normal(keys[1], (case.heads, case.tokens, case.tokens))
    qkv = jax.random.normal(keys[0], case.qkv_shape, case.dtype)
    output_grad = jax.random.normal(keys[2], case.output_shape, case.dtype)
    return qkv, bias, output_grad


def build_jax(case: AttentionCase, implementation: str) -> AttentionRunner:
    """Compile an implementation in JAX; its memory is that of the compiled program."""
    import jax

    operands = jax_operands(case)
    program = jax.jit(jax_function(case, implementation)).lower(*operands).compile()
    memory = program.memory_analysis()

    def call(times: int) -> None:
        for _ in range(times):
            out = program(*operands)
        jax.block_until_ready(out)

    return AttentionRunner(call, memory.temp_size_in_bytes + memory.output_size_in_bytes)


def relative_errors(implementation: str) -> dict[str, float]:
    """Return the relative errors of bfloat16 results and gradients against `xla` in float32.

    The two shifted windows have the published size, 392 tokens, in two segments.
    """
    import jax
    import jax.numpy as jnp

    segment_ids = [[0] * 196 + [1] * 196, [0, 1] * 196]
    cases = {
        backward: AttentionCase(
            clips=1,
            windows=2,
            tokens=392,
            heads=3,
            segment_ids=segment_ids,
            backward=backward,
            dtype="bfloat16",
        )
        for backward in (False, True)
    }
    operands = jax_operands(cases[True])

    def results(name: str, operands: tuple[Any, ...]) -> dict[str, Any]:
        run = {back: jax.jit(jax_function(case, name)) for back, case in cases.items()}
        qkv_grad, bias_grad = run[True](*operands)
        query, key, value = jnp.moveaxis(qkv_grad, 3, 0)
        out = run[False](*operands)
        return {"out": out, "query": query, "key": key, "value": value, "bias": bias_grad}

    actual = results(implementation, operands)
    expected = results("xla", tuple(x.astype(jnp.float32) for x in operands))
    return {
        name: float(
            jnp.linalg.norm(actual[name] - expected[name]) / jnp.linalg.norm(expected[name])
        )
        for name in expected
    }


def build_sdpa(case: AttentionCase, device: str) -> AttentionRunner:
    """Build PyTorch's scaled_dot_product_attention with the sum of bias and mask as its mask."""
    import torch

    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    on_device = {"device": "cuda" if device == "gpu" else "cpu"}
    typed = {**on_device, "dtype": getattr(torch, case.dtype)}
    bias_shape = (case.heads, case.tokens, case.tokens)
    qkv = torch.randn(case.qkv_shape, **typed, requires_grad=case.backward)
    bias = torch.randn(bias_shape, **on_device, requires_grad=case.backward)
    output_grad = torch.randn(case.output_shape, **typed)
    mask = None
    if case.segment_ids is not None:
        ids = torch.tensor(case.segment_ids, **on_device)
        mask = torch.where(ids[:, :, None] == ids[:, None, :], 0.0, -100.0)

    def call_once() -> None:
        with torch.set_grad_enabled(case.backward):
            out = _torch_attention(qkv, bias, mask)
        if case.backward:
            torch.autograd.grad(out, (qkv, bias), output_grad)

    return _torch_runner(call_once, device)


def _torch_attention(qkv: Any, bias: Any, mask: Any) -> Any:
    """Map `[B, W, N, 3, heads, dim]`, `[heads, N, N]`, `[W, N, N]` to `[B, W, N, heads, dim]`.

    Without a mask all windows share a bias [1, heads, N, N]. With a mask all clips share one sum
    [1, W * heads, N, N], and SDPA treats windows as heads: this costs a copy of queries, keys and
    values, and saves a copy of the sum for each clip.
    """
    import torch

    clips, windows, tokens, _, heads, dim = qkv.shape
    parts = qkv.permute(3, 0, 1, 4, 2, 5)  # [3, B, W, heads, N, dim]
    if mask is None:
        query, key, value = parts.flatten(1, 2)
        added = bias[None].to(qkv.dtype).expand(clips * windows, -1, -1, -1)
    else:
        query, key, value = parts.flatten(2, 3)
        added = (bias + mask[:, None]).flatten(0, 1)[None].to(qkv.dtype).expand(clips, -1, -1, -1)
    out = torch.nn.functional.scaled_dot_product_attention(query, key, value, added)
    return out.reshape(clips, windows, heads, tokens, dim).transpose(2, 3)


def _torch_runner(call_once: Callable[[], None], device: str) -> AttentionRunner:
    import torch

    def call(times: int) -> None:
        for _ in range(times):
            call_once()
        if device == "gpu":
            torch.cuda.synchronize()

    if device == "cpu":
        return AttentionRunner(call, memory=None)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call(1)
    return AttentionRunner(call, torch.cuda.max_memory_allocated() - before)


def make_task_handler(name: str, device: str) -> Callable[[str], dict[str, Any]]:
    """Return the function that handles the tasks of a driver.

    "errors" replies with `relative_errors`, for implementations in JAX. Any other task is an
    `AttentionCase` as JSON, and its reply has the `seconds` of a call and the `memory` in bytes.
    The runner of the latest case is reused when the case is repeated.
    """
    latest: dict[str, tuple[AttentionRunner, int]] = {}

    def runner_and_repeats(task: str) -> tuple[AttentionRunner, int]:
        if task not in latest:
            latest.clear()
            case = AttentionCase(**json.loads(task))
            runner = build_sdpa(case, device) if name == "sdpa" else build_jax(case, name)
            runner.call(1)
            start = time.perf_counter()
            runner.call(1)
            latest[task] = runner, max(1, round(SECONDS / (time.perf_counter() - start)))
        return latest[task]

    def handle(task: str) -> dict[str, Any]:
        if task == "errors":
            return {"errors": relative_errors(name)}
        runner, repeats = runner_and_repeats(task)
        start = time.perf_counter()
        runner.call(repeats)
        return {"seconds": (time.perf_counter() - start) / repeats, "memory": runner.memory}

    return catch_errors(handle)


def main() -> None:
    """Serve the implementation that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--worker", required=True, choices=[*JAX_IMPLEMENTATIONS, "sdpa"])
    parser.add_argument("--device", required=True, choices=["cpu", "gpu"])
    options = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    library = __import__("torch" if options.worker == "sdpa" else "jax")
    handle = make_task_handler(options.worker, options.device)
    serve_tasks(f"{library.__name__} {library.__version__}", handle)


if __name__ == "__main__":
    main()
