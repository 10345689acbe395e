"""A contender of attention.py, in a process of its own: ours, tokamax or PyTorch's SDPA.

All are given the packed projection [B, windows, N, 3, heads, dim], as the model makes it, the bias
[heads, N, N] in float32 and the region ids of the windows; forward and backward have the gradients
of the projection and of the bias.
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
from contenders import guarded, serve

OURS = ("xla", "chunked", "gpu")
JAX = (*OURS, "tokamax")
DIM = 32
# Calls are timed together until they take that long.
SECONDS = 0.05


@dataclass(frozen=True)
class Case:
    """What is computed: attention of one block, its windows [windows, tokens] and heads.

    regions: a row of ids for each window, or None where the windows are not shifted; dtype:
    "float32" or "bfloat16".
    """

    clips: int
    windows: int
    tokens: int
    heads: int
    regions: list[list[int]] | None
    backward: bool
    dtype: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the packed projection."""
        return (self.clips, self.windows, self.tokens, 3, self.heads, DIM)


@dataclass(frozen=True)
class Built:
    """Runs the case `times` times, and ends when all is done; memory: bytes beside its inputs."""

    call: Callable[[int], None]
    memory: int | None


def jax_function(case: Case, implementation: str) -> Callable[..., Any]:
    """(qkv, bias, gradient of the result) to the result, or to both gradients."""
    import jax

    from vswin_jax.attention import window_attention

    ids = None if case.regions is None else np.array(case.regions, np.int8)
    if implementation == "tokamax":
        attend = functools.partial(_tokamax, ids=ids)
    else:
        attend = functools.partial(window_attention, region_ids=ids, implementation=implementation)

    def run(qkv: jax.Array, bias: jax.Array, grad: jax.Array) -> Any:
        out, pull_back = jax.vjp(attend, qkv, bias)
        return pull_back(grad) if case.backward else out

    return run


def _tokamax(qkv: Any, bias: Any, ids: np.ndarray | None) -> Any:
    """What tokamax takes to be the best here; a bias and a mask that broadcast are its own."""
    import jax.numpy as jnp
    import tokamax

    query, key, value = jnp.moveaxis(qkv, 3, 0)
    same = None if ids is None else (ids[:, :, None] == ids[:, None, :])[None, :, None]
    return tokamax.dot_product_attention(query, key, value, bias=bias[None, None], mask=same)


def jax_operands(case: Case) -> tuple[Any, Any, Any]:
    """qkv, bias and the gradient of the result."""
    import jax

    keys = jax.random.split(jax.random.key(0), 3)
    bias = jax.random.normal(keys[1], (case.heads, case.tokens, case.tokens))
    qkv = jax.random.normal(keys[0], case.shape, case.dtype)
    grad = jax.random.normal(keys[2], case.shape[:3] + case.shape[4:], case.dtype)
    return qkv, bias, grad


def in_jax(case: Case, implementation: str) -> Built:
    """One in JAX; its memory is what the compiled program says."""
    import jax

    operands = jax_operands(case)
    program = jax.jit(jax_function(case, implementation)).lower(*operands).compile()
    needs = program.memory_analysis()

    def call(times: int) -> None:
        for _ in range(times):
            out = program(*operands)
        jax.block_until_ready(out)

    return Built(call, needs.temp_size_in_bytes + needs.output_size_in_bytes)


def errors(implementation: str) -> dict[str, float]:
    """How far bfloat16 results and gradients of shifted windows are from float32 `xla`, relative.

    The windows are of the published size: 392 tokens, in two regions.
    """
    import jax
    import jax.numpy as jnp

    regions = [[0] * 196 + [1] * 196, [0, 1] * 196]
    cases = {
        backward: Case(1, 2, 392, 3, regions, backward, "bfloat16") for backward in (False, True)
    }
    qkv, bias, grad = jax_operands(cases[True])
    exact = [x.astype(jnp.float32) for x in (qkv, bias, grad)]

    def results(name: str, operands: tuple[Any, ...]) -> dict[str, Any]:
        run = {back: jax.jit(jax_function(case, name)) for back, case in cases.items()}
        of_qkv, of_bias = run[True](*operands)
        query, key, value = jnp.moveaxis(of_qkv, 3, 0)
        out = run[False](*operands)
        return {"out": out, "query": query, "key": key, "value": value, "bias": of_bias}

    found, wanted = results(implementation, (qkv, bias, grad)), results("xla", tuple(exact))
    return {
        name: float(jnp.linalg.norm(found[name] - wanted[name]) / jnp.linalg.norm(wanted[name]))
        for name in wanted
    }


def sdpa(case: Case, device: str) -> Built:
    """PyTorch's scaled_dot_product_attention with the bias and the mask added up.

    Where windows are not shifted, all of them share a mask [1, heads, N, N]. Where they are, the
    clips share one [1, windows * heads, N, N]: the windows count as heads, which costs a copy of
    queries, keys and values, and saves a copy of the mask for each clip.
    """
    import torch

    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    place = {"device": "cuda" if device == "gpu" else "cpu"}
    number = {**place, "dtype": getattr(torch, case.dtype)}
    qkv = torch.randn(case.shape, **number, requires_grad=case.backward)
    bias = torch.randn(case.heads, case.tokens, case.tokens, **place, requires_grad=case.backward)
    grad = torch.randn(case.shape[:3] + case.shape[4:], **number)
    mask = None
    if case.regions is not None:
        ids = torch.tensor(case.regions, **place)
        mask = torch.where(ids[:, :, None] == ids[:, None, :], 0.0, -100.0)

    def once() -> None:
        with torch.set_grad_enabled(case.backward):
            out = _torch_attention(qkv, bias, mask)
        if case.backward:
            torch.autograd.grad(out, (qkv, bias), grad)

    return _timed(once, device)


def _torch_attention(qkv: Any, bias: Any, mask: Any) -> Any:
    """`[B, W, N, 3, heads, dim]`, `[heads, N, N]`, `[W, N, N]` to `[B, W, N, heads, dim]`."""
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


def _timed(once: Callable[[], None], device: str) -> Built:
    import torch

    def call(times: int) -> None:
        for _ in range(times):
            once()
        if device == "gpu":
            torch.cuda.synchronize()

    if device == "cpu":
        return Built(call, None)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call(1)
    return Built(call, torch.cuda.max_memory_allocated() - before)


def answers(name: str, device: str) -> Callable[[str], dict[str, Any]]:
    """Tasks are "errors", of those in JAX, and cases as JSON: `seconds` a call, `memory` in bytes.

    A case that comes again is not built again.
    """
    last: dict[str, tuple[Built, int]] = {}

    def built(task: str) -> tuple[Built, int]:
        if task not in last:
            last.clear()
            case = Case(**json.loads(task))
            made = sdpa(case, device) if name == "sdpa" else in_jax(case, name)
            made.call(1)
            start = time.perf_counter()
            made.call(1)
            last[task] = made, max(1, round(SECONDS / (time.perf_counter() - start)))
        return last[task]

    def answer(task: str) -> dict[str, Any]:
        if task == "errors":
            return {"errors": errors(name)}
        made, times = built(task)
        start = time.perf_counter()
        made.call(times)
        return {"seconds": (time.perf_counter() - start) / times, "memory": made.memory}

    return guarded(answer)


def main() -> None:
    """Serves what is named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--worker", required=True, choices=[*JAX, "sdpa"])
    parser.add_argument("--device", required=True, choices=["cpu", "gpu"])
    options = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    library = __import__("torch" if options.worker == "sdpa" else "jax")
    serve(f"{library.__name__} {library.__version__}", answers(options.worker, options.device))


if __name__ == "__main__":
    main()
