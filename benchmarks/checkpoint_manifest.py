"""Cost of writing and comparing a checkpoint's manifest, beside saving and restoring.

    python benchmarks/checkpoint_manifest.py [--model swin_tiny] [--rounds 5] [--directory DIR]

The state has the parameters of a model three times, as with AdamW, filled with random values. Every
number is a median over rounds. The files were just written, so they are read from the page cache:
the numbers measure the processor, and a disk that reads fewer bytes per second is the bound.
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
from vswin_jax.checkpoint.step_directories import find_damage
from vswin_jax.models import create_model, init_params


def random_state(model_name: str) -> dict[str, Any]:
    """Draw parameters and two moments of the model."""
    model = create_model(model_name, 400)
    shapes = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
    keys = jax.random.split(jax.random.key(1), 3)
    return {
        name: jax.tree.map(lambda leaf, key=key: jax.random.normal(key, leaf.shape), shapes)
        for name, key in zip(("params", "mu", "nu"), keys, strict=True)
    }


def time_call(function: Callable[[], Any]) -> float:
    """Return the seconds that a call takes, its arrays included."""
    start = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - start


def measure_round(directory: Path, state: dict[str, Any]) -> dict[str, float]:
    """Return the seconds of each operation on one checkpoint in a new directory."""
    with Checkpoints(directory) as checkpoints:
        seconds = {"save, until it returns": time_call(lambda: checkpoints.save(1, state, {}))}
        seconds["save, in the background"] = time_call(checkpoints.wait)
    step = epath.Path(directory / "1")
    seconds["of which the manifest"] = time_call(lambda: manifest.write(step, marked=True))
    seconds["compare all files"] = time_call(lambda: find_damage(step, thorough=True))
    seconds["compare sizes, small files"] = time_call(lambda: find_damage(step, thorough=False))
    with Checkpoints(directory) as checkpoints:
        seconds["restore"] = time_call(lambda: checkpoints.restore_latest(state))
    return seconds


def main() -> None:
    """Measure the rounds and print their medians."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="swin_tiny", metavar="NAME", help="%(default)s")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="%(default)s")
    parser.add_argument("--directory", default=None, metavar="DIR", help="parent of the files")
    options = parser.parse_args()
    state = random_state(options.model)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    rounds = []
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory(dir=options.directory) as directory:
            rounds.append(measure_round(Path(directory) / "checkpoints", state))
    print(f"{options.model}: a state of {size / 1e6:.0f} MB")
    for name in rounds[0]:
        seconds = statistics.median(times[name] for times in rounds)
        print(f"{name:26} {seconds:7.3f} s {size / seconds / 1e6:9.0f} MB/s")


if __name__ == "__main__":
    main()
