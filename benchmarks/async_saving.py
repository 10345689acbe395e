"""What saving in the background costs the training steps beside it.

    python benchmarks/async_saving.py [--model quickstart|swin_tiny] [--steps 20] [--rounds 5]

Windows of `--steps` steps take turns: one without a save, one that begins with a save, as the
training loop makes it. Printed are medians over rounds: the time that `save` holds the loop, the
time until all is on the disk, a step while that is in flight and a step without, and the ratio of
whole windows. On a CPU the threads that compress and write compete with the step for the cores;
beside an accelerator they do not, and what holds the loop is all that it costs.
"""

import argparse
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np

from vswin_jax.checkpoint import Checkpoints
from vswin_jax.models import create_model, init_params
from vswin_jax.sharding.mesh import REPLICATED, make_mesh, place_batch
from vswin_jax.training.optimizer import make_optimizer
from vswin_jax.training.state import TrainState, create_state
from vswin_jax.training.steps import TrainStep, make_train_step

CLASSES = 8
OPTIM = SimpleNamespace(
    learning_rate=1e-3,
    weight_decay=0.05,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    groups="intended",
    backbone_multiplier=1.0,
    clip_norm=0.0,
)
# The quickstart's model and batch; Swin-T with a clip that makes a step of a second or two.
MODELS: dict[str, dict[str, Any]] = {
    "quickstart": {
        "model": {
            "embed_dim": 32,
            "depths": (2, 2),
            "num_heads": (2, 4),
            "window_size": (2, 8, 8),
            "patch_size": (4, 4, 4),
        },
        "video": (32, 1, 8, 32, 32, 3),
    },
    "swin_tiny": {"model": {}, "video": (1, 1, 16, 112, 112, 3)},
}


@dataclass
class Run:
    """A step, its state and its batch, as the training loop has them."""

    step: TrainStep
    state: TrainState
    batch: dict[str, jax.Array]

    @classmethod
    def of(cls, name: str) -> "Run":
        """A fresh one; its step is compiled."""
        model = create_model("swin_tiny", CLASSES, **MODELS[name]["model"])
        shapes = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
        optimizer = make_optimizer(OPTIM, lambda step: 1.0, shapes)
        mesh = make_mesh(devices=jax.devices()[:1])
        state = create_state(model, optimizer, jax.random.key(0), mesh, REPLICATED)
        run = cls(
            make_train_step(model, optimizer, seed=0, num_classes=CLASSES),
            state,
            place_batch(batch_of(MODELS[name]["video"]), mesh),
        )
        run.steps(2)
        return run

    def steps(self, count: int) -> list[float]:
        """Seconds of each of `count` steps, waited for one by one."""
        taken = []
        for _ in range(count):
            before = time.perf_counter()
            self.state, metrics = self.step(self.state, self.batch)
            jax.block_until_ready(metrics)
            taken.append(time.perf_counter() - before)
        return taken


def batch_of(shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Noise with labels."""
    rng = np.random.default_rng(0)
    return {
        "video": rng.integers(0, 256, shape, dtype=np.uint8),
        "label": rng.integers(0, CLASSES, shape[0], dtype=np.int32),
        "mask": np.ones(shape[0], np.float32),
        "flip": np.zeros(shape[0], bool),
    }


def one_round(run: Run, checkpoints: Checkpoints, number: int, count: int) -> dict[str, float]:
    """Seconds by what they are of: a window without a save and one that begins with it."""
    plain = run.steps(count)
    before = time.perf_counter()
    checkpoints.save(number, run.state, {})
    held = time.perf_counter() - before
    beside, done = [], 0.0
    for _ in range(count):
        beside += run.steps(1)
        checkpoints.check()
        if not done and not checkpoints.is_saving():
            done = time.perf_counter() - before
            in_flight = list(beside)
    checkpoints.wait()
    if not done:
        done, in_flight = time.perf_counter() - before, beside
    return {
        "window": sum(plain),
        "window with a save": held + sum(beside),
        "save holds the loop": held,
        "save is on the disk": done,
        "step": statistics.median(plain),
        "step, save in flight": statistics.median(in_flight),
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="What saving costs the steps beside it.")
    parser.add_argument("--model", default="quickstart", choices=MODELS, help="%(default)s")
    parser.add_argument("--steps", type=int, default=20, metavar="N", help="%(default)s")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="%(default)s")
    parser.add_argument("--directory", default=None, metavar="DIR", help="where to write")
    asked = parser.parse_args()
    run = Run.of(asked.model)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(run.state))
    with (
        tempfile.TemporaryDirectory(dir=asked.directory) as directory,
        Checkpoints(Path(directory) / "checkpoints") as checkpoints,
    ):
        one_round(run, checkpoints, 0, 2)
        rounds = [
            one_round(run, checkpoints, number, asked.steps)
            for number in range(1, asked.rounds + 1)
        ]
    print(f"{asked.model}: a state of {size / 1e6:.1f} MB, {asked.steps} steps a window")
    medians = {what: statistics.median(each[what] for each in rounds) for what in rounds[0]}
    for what, seconds in medians.items():
        print(f"{what:22} {1000 * seconds:9.1f} ms")
    ratios = [each["window with a save"] / each["window"] for each in rounds]
    print(f"window with a save / window: {statistics.median(ratios):.3f} (median of rounds)")
    print(f"step, in flight / step: {medians['step, save in flight'] / medians['step']:.3f}")


if __name__ == "__main__":
    main()
