"""The comparison of an export with its model: the probabilities of clips, and the speed."""

import functools
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Float32, UInt8

from vswin_jax.errors import InputError
from vswin_jax.inference.exports.export_format import ExportCall
from vswin_jax.inference.trained_model import TrainedModel, class_probabilities
from vswin_jax.runtime.progress import Progress, WriteLine

# The largest difference of a probability that an export may have.
TOLERANCE = 1e-4

# Time for which both are measured, once each at least.
_SPEED_SECONDS = 2.0


@dataclass(frozen=True)
class Comparison:
    """An export beside its model.

    Attributes:
      difference: the largest difference of a probability.
      num_clips: the number of clips.
      clips: the origin of the clips, in words.
      export_rate: clips that the export processes per second, one at a time.
      model_rate: the same of the model.
    """

    difference: float
    num_clips: int
    clips: str
    export_rate: float
    model_rate: float

    def check(self) -> None:
        """Check that the export is right.

        Raises:
          InputError: the difference is larger than `TOLERANCE`.
        """
        # Not `>`, which is False for NaN.
        if not self.difference <= TOLERANCE:
            raise InputError(
                f"Expected an export whose probabilities differ from the model's by at most "
                f"{TOLERANCE:g} but they differ by {self.difference:.2g}, so it was deleted: try "
                f"another format, or --dtype float32."
            )


def compare(
    loaded: TrainedModel,
    export_call: ExportCall,
    clips: UInt8[np.ndarray, "B T H W 3"],
    origin: str,
    write_line: WriteLine,
) -> Comparison:
    """Compare an export with the model, on a CPU, and measure the speed of both."""
    pairs = _batches(len(clips))
    progress = Progress(len(clips) + sum(map(len, pairs)), write_line, unit="clips")
    with _on_cpu():
        model = _model_call(loaded)
        expected = np.concatenate([_counted(model, clip[None], progress) for clip in clips])
        difference = max(
            _largest_difference(_counted(export_call, clips[rows], progress), expected[rows])
            for rows in pairs
        )
    export_rate, model_rate = _rates(export_call, _default_call(loaded), clips[:1])
    return Comparison(difference, len(clips), origin, export_rate, model_rate)


def _batches(count: int) -> list[list[int]]:
    """Return the clips of each batch: one, then all in pairs, since the size is to be free."""
    return [[0], *([row, (row + 1) % count] for row in range(0, count, 2))]


def _counted(
    call: ExportCall, clips: UInt8[np.ndarray, "B T H W 3"], progress: Progress
) -> Float32[np.ndarray, "B K"]:
    result = call(clips)
    progress.add(len(clips))
    return result


def _largest_difference(
    probabilities: Float32[np.ndarray, "B K"], expected: Float32[np.ndarray, "B K"]
) -> float:
    if probabilities.shape != expected.shape:
        return float("nan")
    return float(np.abs(probabilities - expected).max())


def _on_cpu() -> AbstractContextManager[Any]:
    """Let JAX compute on a CPU, because an accelerator rounds products to fewer digits."""
    # The context is part of the key of compiled programs, so the default needs none.
    if jax.default_backend() == "cpu":
        return nullcontext()
    return jax.default_device(jax.local_devices(backend="cpu")[0])


def _model_call(loaded: TrainedModel) -> ExportCall:
    """Return the model as a call that computes on JAX's default device."""
    return (_default_call if jax.default_backend() == "cpu" else _cpu_call)(loaded)


def _cpu_call(loaded: TrainedModel) -> ExportCall:
    # The kernels of an accelerator cannot be used on a CPU.
    model = loaded.model.clone(attention="xla", tokenwise="xla")
    call = jax.jit(functools.partial(class_probabilities, model, loaded.task))
    params = jax.device_get(loaded.params)
    return lambda clips: np.asarray(call(params, clips))


def _default_call(loaded: TrainedModel) -> ExportCall:
    return lambda clips: np.asarray(loaded.probabilities(clips))


def _rates(
    first: ExportCall, second: ExportCall, clips: UInt8[np.ndarray, "B T H W 3"]
) -> tuple[float, float]:
    """Return the clips per second of two calls, which are measured in turns."""
    shortest = [float("inf")] * 2
    if jax.default_backend() != "cpu":
        # Both were compiled for the CPU only.
        first(clips), second(clips)
    end = time.monotonic() + _SPEED_SECONDS
    while time.monotonic() < end or shortest[1] == float("inf"):
        for index, call in enumerate((first, second)):
            start = time.perf_counter()
            call(clips)
            shortest[index] = min(shortest[index], time.perf_counter() - start)
    return len(clips) / shortest[0], len(clips) / shortest[1]
