"""Worker of train_step.py and inference.py: our model or torchvision's in a process of its own.

The training step is the same for all: cross-entropy, all gradients, one AdamW update, stochastic
depth 0.1. In bfloat16 torchvision's model runs under autocast; in float32 both libraries may use
TF32 on a GPU.
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

from torchvision_import import without_torchvision_operators
from worker_process import catch_errors, serve_tasks

CLASSES = 400
OURS = "vswin_jax"

# Rematerialisation of our training step on a CPU: recomputing costs next to nothing there and needs
# 0.6 of the memory.
CPU_REMAT = {"remat": "dots"}


@dataclass(frozen=True)
class Workload:
    """A model and the input of one call.

    Attributes:
      contender: the implementation, a key of CONTENDERS.
      attention: the attention implementation of vswin_jax.
      autotune: True if XLA times kernels of vswin_jax while it compiles.
      training: True for a training step, False for a forward pass.
      variant: the name of the size that `embed_dim`, `depths` and `num_heads` give.
      dtype: "float32" or "bfloat16".
      device: "cpu" or "gpu".
      clips: the batch size of a call; each clip has `frames` frames of `size` x `size` pixels.
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
    def is_ours(self) -> bool:
        """True for vswin_jax, False for a baseline."""
        return self.contender == OURS

    @property
    def name(self) -> str:
        """The implementation's name with the settings of vswin_jax that are not the default."""
        attention = "" if self.attention == "auto" else f", {self.attention}"
        return self.contender + attention + (", autotuned" if self.autotune else "")


@dataclass(frozen=True)
class ModelRunner:
    """A workload that is ready to run.

    Attributes:
      device: the name of the device's kind.
      call: runs one call and returns when it has finished.
      peak_memory: returns the peak memory in bytes; on a CPU that of the whole process.
    """

    device: str
    call: Callable[[], object]
    peak_memory: Callable[[], int]


def peak_resident_memory() -> int:
    """Return the peak resident memory of this process in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def build_ours(workload: Workload) -> ModelRunner:
    """Build our model, compiled by JAX."""
    import jax

    logging.basicConfig(format="%(message)s")
    logging.getLogger("vswin_jax").setLevel(logging.INFO)
    device = jax.devices()[0]
    call = _our_training(workload) if workload.training else _our_forward(workload)
    on_gpu = workload.device == "gpu"
    peak = (lambda: device.memory_stats()["peak_bytes_in_use"]) if on_gpu else peak_resident_memory
    return ModelRunner(device.device_kind, call, peak)


def _our_model(workload: Workload) -> tuple[Any, Any, Any]:
    """Return the model, its parameters and clips."""
    import jax
    import jax.numpy as jnp

    from vswin_jax.models import create_model, init_params

    model = create_model(
        "swin_tiny",
        CLASSES,
        workload.dtype,
        embed_dim=workload.embed_dim,
        depths=workload.depths,
        num_heads=workload.num_heads,
        drop_path_rate=0.1,
        head_dropout_rate=0.0,
        attention=workload.attention,
        **(CPU_REMAT if workload.device == "cpu" and workload.training else {}),
    )
    size = workload.size
    clip = jax.random.normal(jax.random.key(0), (workload.frames, size, size, 3))
    # Drawing random values for all clips would need more memory than some forward passes do.
    clips = jnp.tile(clip, (workload.clips, 1, 1, 1, 1))
    return model, init_params(model, jax.random.key(1)), clips


def _our_forward(workload: Workload) -> Callable[[], object]:
    import jax

    from vswin_jax.runtime.compilation import compiler_options

    model, params, clips = _our_model(workload)
    forward = jax.jit(
        lambda params, clips: model.apply({"params": params}, clips),
        compiler_options=compiler_options(None, workload.autotune),
    )
    return lambda: jax.block_until_ready(forward(params, clips))


def _our_training(workload: Workload) -> Callable[[], object]:
    import jax
    import jax.numpy as jnp
    import optax

    from vswin_jax.runtime.compilation import compiler_options

    model, params, clips = _our_model(workload)
    labels = jnp.zeros(workload.clips, jnp.int32)
    optimizer = optax.adamw(1e-3, weight_decay=0.02)

    def step(state: tuple[Any, Any], clips: jax.Array, key: jax.Array) -> tuple[Any, Any]:
        params, opt_state = state

        def loss(params: Any) -> jax.Array:
            logits = model.apply({"params": params}, clips, train=True, rngs={"dropout": key})
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        # The updates of our trainer depend on the norm of all gradients. The barrier gives this
        # step the same order; without it XLA updates parameters in place while products still
        # need them, and therefore copies the parameters.
        grads = jax.lax.optimization_barrier(jax.grad(loss)(params))
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    options = compiler_options(None, workload.autotune)
    compiled_step = jax.jit(step, donate_argnums=0, compiler_options=options)
    key = jax.random.key(2)
    state = (params, optimizer.init(params))

    def train() -> None:
        nonlocal state
        state = jax.block_until_ready(compiled_step(state, clips, key))

    return train


def build_torchvision(workload: Workload) -> ModelRunner:
    """Build torchvision's model, eager or through `torch.compile`."""
    import torch

    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    device = torch.device("cuda" if workload.device == "gpu" else "cpu")
    model = _torchvision_model(workload).to(device)
    run = torch.compile(model) if workload.contender == "torchvision compiled" else model
    size = workload.size
    clips = torch.randn(workload.clips, 3, workload.frames, size, size, device=device)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=workload.dtype == "bfloat16")
    make_call = _torchvision_training if workload.training else _torchvision_forward
    call = make_call(model, run, clips, autocast)
    if workload.device == "cpu":
        return ModelRunner("cpu", call, peak_resident_memory)

    def synchronised() -> None:
        call()
        torch.cuda.synchronize()

    return ModelRunner(torch.cuda.get_device_name(), synchronised, torch.cuda.max_memory_allocated)


def _torchvision_model(workload: Workload) -> Any:
    with without_torchvision_operators():
        from torchvision.models.video.swin_transformer import SwinTransformer3d
    # The arguments are those that swin3d_t, swin3d_s and swin3d_b pass.
    return SwinTransformer3d(
        patch_size=[2, 4, 4],
        embed_dim=workload.embed_dim,
        depths=list(workload.depths),
        num_heads=list(workload.num_heads),
        window_size=[8, 7, 7],
        stochastic_depth_prob=0.1,
        num_classes=CLASSES,
    )


def _torchvision_forward(
    model: Any, run: Callable[[Any], Any], clips: Any, autocast: AbstractContextManager
) -> Callable[[], object]:
    import torch

    model.eval()

    def forward() -> object:
        with torch.inference_mode(), autocast:
            return run(clips)

    return forward


def _torchvision_training(
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


CONTENDERS: dict[str, Callable[[Workload], ModelRunner]] = {
    OURS: build_ours,
    "torchvision eager": build_torchvision,
    "torchvision compiled": build_torchvision,
}


def make_task_handler(workload: Workload) -> Callable[[str], dict[str, Any]]:
    """Return the function that handles the tasks of a driver.

    "build" builds the model and calls it twice; it replies with `device` and `first_call_s`, the
    seconds of the first call, which includes compilation. "measure" calls the model twice and
    replies with the `seconds` of the second call. The first of these two calls warms up: while
    the other workers were measured, caches went cold and a virtual machine returned free memory to
    its host. "peak_memory" replies with `bytes`.
    """
    runner: ModelRunner | None = None

    def time_call() -> float:
        start = time.perf_counter()
        runner.call()
        return time.perf_counter() - start

    def handle(task: str) -> dict[str, Any]:
        nonlocal runner
        if task == "build":
            runner = CONTENDERS[workload.contender](workload)
            first_call_s = time_call()
            time_call()
            return {"first_call_s": first_call_s, "device": runner.device}
        if task == "measure":
            time_call()
            return {"seconds": time_call()}
        return {"bytes": runner.peak_memory()}

    return catch_errors(handle)


def main() -> None:
    """Serve the workload that the command line gives as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--worker", required=True)
    parser.add_argument("--work", type=json.loads, required=True)
    workload = Workload(**parser.parse_args().work)
    library = __import__("jax" if workload.is_ours else "torch")
    serve_tasks(f"{library.__name__} {library.__version__}", make_task_handler(workload))


if __name__ == "__main__":
    main()
