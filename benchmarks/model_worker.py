"""A contender of train_step.py and inference.py, in a process of its own: ours or torchvision's.

The training step is the same for all: cross-entropy, all gradients, one AdamW update, stochastic
depth 0.1. In bfloat16 torchvision runs under autocast; in float32 both may use TF32 on a GPU.
"""

import argparse
import json
import logging
import resource
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from contenders import guarded, serve

CLASSES = 400

# How our training step is taken on a CPU: what it computes again costs next to nothing there, for
# 0.6 of the memory.
ON_CPU = {"remat": "dots"}


@dataclass(frozen=True)
class Work:
    """What a contender does.

    contender: a name of CONTENDERS; attention: the implementation, of ours; autotune: whether XLA
    times kernels for ours while it compiles; training: a step, or else a forward pass; variant: a
    name for the model, embed_dim, depths and num_heads what it is; dtype: "float32" or "bfloat16";
    device: "cpu" or "gpu"; clips a call, of frames x size x size.
    """

    contender: str
    attention: str
    autotune: bool
    training: bool
    variant: str
    embed_dim: int
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    dtype: str
    device: str
    clips: int
    frames: int
    size: int

    @property
    def name(self) -> str:
        """That of the contender, with what was chosen for ours."""
        attention = "" if self.attention == "auto" else f", {self.attention}"
        return self.contender + attention + (", autotuned" if self.autotune else "")


@dataclass(frozen=True)
class Built:
    """A model that runs.

    device: what its kind is called; call: does the work once, and ends when it is done; peak: the
    bytes of memory that were needed at most, on a CPU those of the whole process.
    """

    device: str
    call: Callable[[], object]
    peak: Callable[[], int]


def resident_peak() -> int:
    """The most memory that this process had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def ours(work: Work) -> Built:
    """Our model, compiled by JAX."""
    import jax

    logging.basicConfig(format="%(message)s")
    logging.getLogger("vswin_jax").setLevel(logging.INFO)
    device = jax.devices()[0]
    call = _our_training(work) if work.training else _our_forward(work)
    on_gpu = work.device == "gpu"
    peak = (lambda: device.memory_stats()["peak_bytes_in_use"]) if on_gpu else resident_peak
    return Built(device.device_kind, call, peak)


def _our_model(work: Work) -> tuple[Any, Any, Any]:
    """The model, its parameters and clips."""
    import jax
    import jax.numpy as jnp

    from vswin_jax.models import create_model, init_params

    model = create_model(
        "swin_tiny",
        CLASSES,
        work.dtype,
        embed_dim=work.embed_dim,
        depths=work.depths,
        num_heads=work.num_heads,
        drop_path_rate=0.1,
        head_dropout_rate=0.0,
        attention=work.attention,
        **(ON_CPU if work.device == "cpu" and work.training else {}),
    )
    clip = jax.random.normal(jax.random.key(0), (work.frames, work.size, work.size, 3))
    # Drawing all of them would need more memory than some forward passes do.
    clips = jnp.tile(clip, (work.clips, 1, 1, 1, 1))
    return model, init_params(model, jax.random.key(1)), clips


def _our_forward(work: Work) -> Callable[[], object]:
    import jax

    from vswin_jax.runtime.compilation import compiler_options

    model, params, clips = _our_model(work)
    forward = jax.jit(
        lambda params, clips: model.apply({"params": params}, clips),
        compiler_options=compiler_options(None, work.autotune),
    )
    return lambda: jax.block_until_ready(forward(params, clips))


def _our_training(work: Work) -> Callable[[], object]:
    import jax
    import jax.numpy as jnp
    import optax

    from vswin_jax.runtime.compilation import compiler_options

    model, params, clips = _our_model(work)
    labels = jnp.zeros(work.clips, jnp.int32)
    optimizer = optax.adamw(1e-3, weight_decay=0.02)

    def step(state: tuple[Any, Any], clips: jax.Array, key: jax.Array) -> tuple[Any, Any]:
        params, opt_state = state

        def loss(params: Any) -> jax.Array:
            logits = model.apply({"params": params}, clips, train=True, rngs={"dropout": key})
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        # As in our trainer, whose updates wait for the norm of all gradients: else XLA copies the
        # parameters, for it updates them in place while products still need them.
        grads = jax.lax.optimization_barrier(jax.grad(loss)(params))
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    options = compiler_options(None, work.autotune)
    train = jax.jit(step, donate_argnums=0, compiler_options=options)
    key = jax.random.key(2)
    state = [(params, optimizer.init(params))]

    def train_once() -> None:
        state[0] = jax.block_until_ready(train(state[0], clips, key))

    return train_once


def theirs(work: Work) -> Built:
    """torchvision's model, eager or through `torch.compile`."""
    import torch

    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    device = torch.device("cuda" if work.device == "gpu" else "cpu")
    model = _torchvision_model(work).to(device)
    run = torch.compile(model) if work.contender == "torchvision compiled" else model
    clips = torch.randn(work.clips, 3, work.frames, work.size, work.size, device=device)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=work.dtype == "bfloat16")
    once = _their_training if work.training else _their_forward
    call = once(model, run, clips, autocast)
    if work.device == "cpu":
        return Built("cpu", call, resident_peak)

    def synchronised() -> None:
        call()
        torch.cuda.synchronize()

    return Built(torch.cuda.get_device_name(), synchronised, torch.cuda.max_memory_allocated)


def _torchvision_model(work: Work) -> Any:
    import torch

    register_fake = torch.library.register_fake

    def skip_missing(name: str, *args: object, **kwargs: object) -> Callable:
        # torchvision's compiled operators do not load on a CPU-only torch; this model has none.
        if name.startswith("torchvision::"):
            return lambda function: function
        return register_fake(name, *args, **kwargs)

    torch.library.register_fake = skip_missing
    try:
        from torchvision.models.video.swin_transformer import SwinTransformer3d
    finally:
        torch.library.register_fake = register_fake
    # What swin3d_t, swin3d_s and swin3d_b give it.
    return SwinTransformer3d(
        patch_size=[2, 4, 4],
        embed_dim=work.embed_dim,
        depths=list(work.depths),
        num_heads=list(work.num_heads),
        window_size=[8, 7, 7],
        stochastic_depth_prob=0.1,
        num_classes=CLASSES,
    )


def _their_forward(
    model: Any, run: Callable[[Any], Any], clips: Any, autocast: AbstractContextManager
) -> Callable[[], object]:
    import torch

    model.eval()

    def forward() -> object:
        with torch.inference_mode(), autocast:
            return run(clips)

    return forward


def _their_training(
    model: Any, run: Callable[[Any], Any], clips: Any, autocast: AbstractContextManager
) -> Callable[[], object]:
    import torch

    model.train()
    labels = torch.zeros(len(clips), dtype=torch.long, device=clips.device)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.02, fused=True)

    def train() -> None:
        optimizer.zero_grad(set_to_none=True)
        with autocast:
            loss = torch.nn.functional.cross_entropy(run(clips), labels)
        loss.backward()
        optimizer.step()

    return train


CONTENDERS: dict[str, Callable[[Work], Built]] = {
    "vswin_jax": ours,
    "torchvision eager": theirs,
    "torchvision compiled": theirs,
}


def answers(work: Work) -> Callable[[str], dict[str, Any]]:
    """What the tasks are answered with.

    "first" builds the model and does the work twice: `first_call_s`, the first one with compiling,
    and `device`. "again" does it twice more: `seconds`, the second time. The first one warms up:
    while others had their turns caches went cold, and a virtual machine's free memory to its host.
    "peak": `bytes`.
    """
    built: list[Built] = []

    def seconds() -> float:
        start = time.perf_counter()
        built[0].call()
        return time.perf_counter() - start

    def answer(task: str) -> dict[str, Any]:
        if task == "first":
            built.append(CONTENDERS[work.contender](work))
            first = seconds()
            seconds()
            return {"first_call_s": first, "device": built[0].device}
        if task == "again":
            seconds()
            return {"seconds": seconds()}
        return {"bytes": built[0].peak()}

    return guarded(answer)


def main() -> None:
    """Serves the work that the command line has as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--worker", required=True)
    parser.add_argument("--work", type=json.loads, required=True)
    work = Work(**parser.parse_args().work)
    library = __import__("jax" if work.contender == "vswin_jax" else "torch")
    serve(f"{library.__name__} {library.__version__}", answers(work))


if __name__ == "__main__":
    main()
