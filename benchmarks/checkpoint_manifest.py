"""What it costs to write and to compare the manifest of a checkpoint, beside saving and restoring.

    python benchmarks/checkpoint_manifest.py [--model swin_tiny] [--rounds 5] [--directory DIR]

The state has the parameters of a model three times, as AdamW does, filled with noise. Every number
is a median over rounds. The files were just written, so they are read from the system's cache: the
numbers are of the processor, and a slower disk is the bound if it reads fewer bytes a second.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from etils import epath

from vswin_jax.checkpoint import Checkpoints, manifest
from vswin_jax.checkpoint.step_directories import damage
from vswin_jax.models import create_model, init_params


def noise(model_name: str) -> dict[str, Any]:
    """Parameters and two moments of the model, with its shapes."""
    model = create_model(model_name, 400)
    shapes = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
    keys = jax.random.split(jax.random.key(1), 3)
    return {
        name: jax.tree.map(lambda leaf, key=key: jax.random.normal(key, leaf.shape), shapes)
        for name, key in zip(("params", "mu", "nu"), keys, strict=True)
    }


def seconds(do: Callable[[], Any]) -> float:
    """How long a call takes."""
    before = time.perf_counter()
    jax.block_until_ready(do())
    return time.perf_counter() - before


def one_round(directory: Path, state: dict[str, Any]) -> dict[str, float]:
    """Seconds by what they are of, for one checkpoint in a new directory."""
    with Checkpoints(directory) as checkpoints:
        taken = {"save, until it returns": seconds(lambda: checkpoints.save(1, state, {}))}
        taken["save, in the background"] = seconds(checkpoints.wait)
    step = epath.Path(directory / "1")
    taken["of which the manifest"] = seconds(lambda: manifest.write(step, marked=True))
    taken["compare all files"] = seconds(lambda: damage(step, thorough=True))
    taken["compare what is quick"] = seconds(lambda: damage(step, thorough=False))
    with Checkpoints(directory) as checkpoints:
        taken["restore"] = seconds(lambda: checkpoints.restore_latest(state))
    return taken


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="What the manifest of a checkpoint costs.")
    parser.add_argument("--model", default="swin_tiny", metavar="NAME", help="%(default)s")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="%(default)s")
    parser.add_argument("--directory", default=None, metavar="DIR", help="where to write")
    asked = parser.parse_args()
    state = noise(asked.model)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    rounds = []
    for _ in range(asked.rounds):
        with tempfile.TemporaryDirectory(dir=asked.directory) as directory:
            rounds.append(one_round(Path(directory) / "checkpoints", state))
    print(f"{asked.model}: a state of {size / 1e6:.0f} MB")
    for what in rounds[0]:
        taken = statistics.median(times[what] for times in rounds)
        print(f"{what:26} {taken:7.3f} s {size / taken / 1e6:9.0f} MB/s")


if __name__ == "__main__":
    main()
