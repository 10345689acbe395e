"""Our swin_tiny beside torchvision's swin3d_t on this machine's CPU: forward and training step.

    python benchmarks/compare_torchvision.py [--torch-python OTHER/bin/python] [--json out.json]

Each contender lives in a process of its own and they take turns, one measured call each, so that a
machine whose speed drifts treats all alike; the medians and their ratios are printed. The training
step is the same for all: cross-entropy, all gradients, one AdamW update, stochastic depth 0.1.

PyTorch may live in another interpreter (there is no CPU build for every Python): name it with
--torch-python. Install there: pip install torch==2.13.0; pip install --no-deps torchvision==0.28.0;
pip install pillow numpy.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from contenders import Contender, serve

SHAPE = (1, 16, 224, 224, 3)  # clips, frames, height, width, channels
TASKS = ("forward", "train")
CLASSES = 400

Calls = dict[str, Callable[[], object]]


def jax_calls() -> tuple[str, Calls]:
    """Our model: compiled calls that end when the result is there."""
    import jax
    import jax.numpy as jnp
    import optax

    from vswin_jax.models import create_model, init_params

    model = create_model("swin_tiny", CLASSES, drop_path_rate=0.1, head_dropout_rate=0.0)
    optimizer = optax.adamw(1e-3, weight_decay=0.02)
    clips = jax.random.normal(jax.random.key(0), SHAPE)
    labels = jnp.zeros(SHAPE[:1], jnp.int32)

    def step(params: object, opt_state: object, key: jax.Array) -> tuple[object, object]:
        def loss(params: object) -> jax.Array:
            logits = model.apply({"params": params}, clips, train=True, rngs={"dropout": key})
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        updates, opt_state = optimizer.update(jax.grad(loss)(params), opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    params = init_params(model, jax.random.key(1))
    forward = jax.jit(lambda params, clips: model.apply({"params": params}, clips))
    train = jax.jit(step, donate_argnums=(0, 1))
    state = [jax.tree.map(jnp.copy, params), optimizer.init(params)]

    def train_once() -> None:
        state[:] = jax.block_until_ready(train(*state, jax.random.key(2)))

    calls = {"forward": lambda: jax.block_until_ready(forward(params, clips)), "train": train_once}
    return f"jax {jax.__version__}", calls


def _torchvision_model() -> "torch.nn.Module":  # noqa: F821
    import torch

    register_fake = torch.library.register_fake

    def skip_missing(name: str, *args: object, **kwargs: object) -> Callable:
        # torchvision's compiled operators do not load on a CPU-only torch; this model has none.
        if name.startswith("torchvision::"):
            return lambda function: function
        return register_fake(name, *args, **kwargs)

    torch.library.register_fake = skip_missing
    from torchvision.models.video import swin3d_t

    return swin3d_t(weights=None)


def torch_calls(compiled: bool) -> tuple[str, Calls]:
    """torchvision's model, eager or through `torch.compile`."""
    import torch

    torch.manual_seed(0)
    model = _torchvision_model()
    run = torch.compile(model) if compiled else model
    clips = torch.randn(SHAPE[0], SHAPE[4], *SHAPE[1:4])
    labels = torch.zeros(SHAPE[0], dtype=torch.long)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.02, fused=True)

    def forward() -> object:
        model.eval()
        with torch.inference_mode():
            return run(clips)

    def train() -> None:
        model.train()
        optimizer.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(run(clips), labels).backward()
        optimizer.step()

    return f"torch {torch.__version__}", {"forward": forward, "train": train}


CONTENDERS: dict[str, Callable[[], tuple[str, Calls]]] = {
    "vswin_jax": jax_calls,
    "torchvision eager": lambda: torch_calls(compiled=False),
    "torchvision compiled": lambda: torch_calls(compiled=True),
}


def worker(contender: str) -> None:
    """Answers each task with the seconds that it took."""
    version, calls = CONTENDERS[contender]()

    def seconds(task: str) -> float:
        start = time.perf_counter()
        calls[task]()
        return time.perf_counter() - start

    serve(version, seconds)


def compare(contenders: list[Contender], rounds: int) -> list[dict[str, object]]:
    """Warms everybody up, then measures in turns; a row for each task and contender."""
    rows = []
    for task in TASKS:
        first = {c.name: c.measure(task) for c in contenders}
        for contender in contenders:
            contender.measure(task)
        seconds = {c.name: [] for c in contenders}
        for _ in range(rounds):
            for contender in contenders:
                seconds[contender.name].append(contender.measure(task))
        ours = statistics.median(seconds[contenders[0].name])
        for contender in contenders:
            median = statistics.median(seconds[contender.name])
            rows.append(
                {
                    "task": task,
                    "contender": contender.name,
                    "version": contender.version,
                    "median_s": median,
                    "min_s": min(seconds[contender.name]),
                    "max_s": max(seconds[contender.name]),
                    "first_call_s": first[contender.name],
                    "over_ours": median / ours,
                }
            )
    return rows


def main() -> None:
    """Runs the comparison and prints its table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7, help="measured calls of each (7)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of PyTorch")
    parser.add_argument("--torch-python", default=sys.executable, help="the Python with torch")
    parser.add_argument("--no-compiled", action="store_true", help="leave torch.compile out")
    parser.add_argument("--json", help="also write the rows here")
    parser.add_argument("--worker", choices=CONTENDERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker(args.worker)
        return
    names = [name for name in CONTENDERS if not (args.no_compiled and "compiled" in name)]
    pythons = [sys.executable if name == "vswin_jax" else args.torch_python for name in names]
    contenders = [
        Contender(name, python, __file__, {"OMP_NUM_THREADS": str(args.threads)})
        for name, python in zip(names, pythons, strict=True)
    ]
    rows = compare(contenders, args.rounds)
    for contender in contenders:
        contender.close()
    print(f"swin_tiny, clips {SHAPE}, float32, {args.threads} threads, {args.rounds} rounds")
    print(
        f"{'task':8} {'contender':21} {'median s':>9} {'min':>7} {'max':>7} {'/ ours':>7}  version"
    )
    for row in rows:
        print(
            f"{row['task']:8} {row['contender']:21} {row['median_s']:9.3f} {row['min_s']:7.3f} "
            f"{row['max_s']:7.3f} {row['over_ours']:7.2f}  {row['version']}"
        )
    if args.json:
        Path(args.json).write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
