"""Runs within the process that `startup.py` measures; uses what all versions of vswin_jax have.

python benchmarks/startup_worker.py checkpoint DIR       # write a Swin-T for clips of 16x224x224
python benchmarks/startup_worker.py calls DIR VIDEO      # print the seconds of calls as JSON
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

START = time.perf_counter()
CLASSES, FRAMES, CALLS = 400, 16, 3


def write_checkpoint(directory: Path, frames: int = FRAMES, size: int = 224) -> None:
    """Write a Swin-T with random weights, float32, for one view of [frames, size, size]."""
    import jax
    import numpy as np

    from vswin_jax.config import base_config
    from vswin_jax.models import create_model, init_params
    from vswin_jax.weights.files.orbax_directory import write_workdir

    model = create_model("swin_tiny", CLASSES)
    shapes = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.normal(0, 0.02, leaf.shape).astype("f4"), shapes)
    config = base_config()
    config.model.dtype = "float32"
    config.data.num_frames = frames
    config.data.size = config.eval.resize = size
    config.eval.num_clips = config.eval.num_crops = 1
    names = [f"class_{index}" for index in range(CLASSES)]
    directory.mkdir(parents=True)
    write_workdir(directory, params, {"config": config.to_dict(), "label_names": names})


def time_calls(checkpoint: str, video: str) -> dict[str, float]:
    """Time the import, the first and later calls of `predict`, and their work without the calls."""
    seconds = {}

    def measure(name: str, call: Callable[[], Any]) -> None:
        start = time.perf_counter()
        call()
        seconds.setdefault(name, []).append(time.perf_counter() - start)

    import vswin_jax

    measure("touch of predict", lambda: vswin_jax.predict)
    measure("first call", lambda: vswin_jax.predict(video, checkpoint))
    seconds["start to first prediction"] = [time.perf_counter() - START]
    decode, forward = _work(checkpoint, video)
    for _ in range(CALLS):
        measure("later call", lambda: vswin_jax.predict(video, checkpoint))
        measure("decoding", decode)
        measure("forward pass", forward)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    work = medians["decoding"] + medians["forward pass"]
    return {**medians, "later call, overhead": medians["later call"] - work}


def _work(checkpoint: str, video: str) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Return the decoding of the video and the forward pass of its views, which is compiled."""
    import jax
    import numpy as np

    from vswin_jax import factory
    from vswin_jax.checkpoint import load_for_inference
    from vswin_jax.config.renames import load_saved_config
    from vswin_jax.data.clips.clips import test_views
    from vswin_jax.data.example import Example
    from vswin_jax.training.steps import make_eval_step

    params, metadata = load_for_inference(checkpoint)
    config = load_saved_config(metadata["config"])
    spec = factory.clip_spec(config)
    example = Example(video, 0, 0, video)
    views = test_views(example, spec)
    batch = {
        "video": views[None],
        "label": np.zeros(1, np.int32),
        "flip": np.zeros(1, bool),
    }
    params = jax.device_put(params)
    step = make_eval_step(factory.build_model(config, CLASSES), config.eval.views_per_pass)
    forward = lambda: jax.block_until_ready(step(params, batch))  # noqa: E731
    forward()
    return lambda: test_views(example, spec), forward


if __name__ == "__main__":
    task, *arguments = sys.argv[1:]
    if task == "checkpoint":
        write_checkpoint(Path(arguments[0]))
    else:
        print(json.dumps(time_calls(*arguments)), flush=True)
