"""Cost of asynchronous checkpoint saves for the training steps that run meanwhile.

    python benchmarks/async_saving.py [--model quickstart|swin_tiny] [--steps 20] [--rounds 5]

Each round measures a window of `--steps` steps without a save, and one that begins with a save as
in the training loop. The script prints medians over rounds: the time for which `save` blocks the
loop, the time until the checkpoint is on the disk, the time of a step during the save and without
one, and the ratio of whole windows. On a CPU the threads that write the checkpoint compete with the
step for the cores; with an accelerator they do not, and the blocking time is the whole cost.
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
# The quickstart's model and batch; Swin-T with a clip for which a step takes a second or two.
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
class TrainingRun:
    """The training step, state and batch of a model, as in the training loop."""

    step: TrainStep
    state: TrainState
    batch: dict[str, jax.Array]

    @classmethod
    def create(cls, name: str) -> "TrainingRun":
        """Create the state of a model in `MODELS` and compile its step."""
        model = create_model("swin_tiny", CLASSES, **MODELS[name]["model"])
        shapes = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
        optimizer = make_optimizer(OPTIM, lambda step: 1.0, shapes)
        mesh = make_mesh(devices=jax.devices()[:1])
        state = create_state(model, optimizer, jax.random.key(0), mesh, REPLICATED)
        run = cls(
            step=make_train_step(model, optimizer, seed=0, num_classes=CLASSES),
            state=state,
            batch=place_batch(random_batch(MODELS[name]["video"]), mesh),
        )
        run.time_steps(2)
        return run

    def time_steps(self, count: int) -> list[float]:
        """Run `count` steps, each to its end, and return the seconds of each."""
        seconds = []
        for _ in range(count):
            start = time.perf_counter()
            self.state, metrics = self.step(self.state, self.batch)
            jax.block_until_ready(metrics)
            seconds.append(time.perf_counter() - start)
        return seconds


def random_batch(shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Draw a batch of random pixels and labels; `shape` is that of the video."""
    rng = np.random.default_rng(0)
    return {
        "video": rng.integers(0, 256, shape, dtype=np.uint8),
        "label": rng.integers(0, CLASSES, shape[0], dtype=np.int32),
        "mask": np.ones(shape[0], np.float32),
        "flip": np.zeros(shape[0], bool),
    }


def measure_round(
    run: TrainingRun, checkpoints: Checkpoints, number: int, count: int
) -> dict[str, float]:
    """Measure a window of `count` steps without a save and one with it; return the seconds."""
    without_save = run.time_steps(count)
    start = time.perf_counter()
    checkpoints.save(number, run.state, {})
    blocked = time.perf_counter() - start
    with_save, saved_after = [], 0.0
    for _ in range(count):
        with_save += run.time_steps(1)
        checkpoints.check_for_errors()
        if not saved_after and not checkpoints.is_saving():
            saved_after = time.perf_counter() - start
            during_save = list(with_save)
    checkpoints.wait()
    if not saved_after:
        saved_after, during_save = time.perf_counter() - start, with_save
    return {
        "window": sum(without_save),
        "window with a save": blocked + sum(with_save),
        "save blocks the loop": blocked,
        "save is on the disk": saved_after,
        "step": statistics.median(without_save),
        "step during the save": statistics.median(during_save),
    }


def main() -> None:
    """Measure the rounds and print their medians."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="quickstart", choices=MODELS, help="%(default)s")
    parser.add_argument("--steps", type=int, default=20, metavar="N", help="%(default)s")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="%(default)s")
    parser.add_argument("--directory", default=None, metavar="DIR", help="parent of the files")
    options = parser.parse_args()
    run = TrainingRun.create(options.model)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(run.state))
    with (
        tempfile.TemporaryDirectory(dir=options.directory) as directory,
        Checkpoints(Path(directory) / "checkpoints") as checkpoints,
    ):
        measure_round(run, checkpoints, number=0, count=2)  # warms up
        rounds = [
            measure_round(run, checkpoints, number, options.steps)
            for number in range(1, options.rounds + 1)
        ]
    print(f"{options.model}: a state of {size / 1e6:.1f} MB, {options.steps} steps per window")
    medians = {name: statistics.median(times[name] for times in rounds) for name in rounds[0]}
    for name, seconds in medians.items():
        print(f"{name:22} {1000 * seconds:9.1f} ms")
    ratios = [times["window with a save"] / times["window"] for times in rounds]
    print(f"window with a save / window: {statistics.median(ratios):.3f} (median of rounds)")
    print(f"step during the save / step: {medians['step during the save'] / medians['step']:.3f}")


if __name__ == "__main__":
    main()
