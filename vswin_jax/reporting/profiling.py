"""Traces of some training steps by `jax.profiler`, for TensorBoard, XProf and Perfetto."""

import contextlib
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from vswin_jax.errors import InputError

log = logging.getLogger("vswin_jax")

DIRECTORY = "profile"
# The first steps compile and fill the queues, so they are not representative.
DEFAULT_STEP_RANGE = "10:14"
# Name of the step events in a trace.
STEP_NAME = "train"


def parse_step_range(text: str) -> tuple[int, int] | None:
    """Parse "FIRST:LAST", steps counted from 1 since this start of the run; "" is None.

    Raises:
      InputError: another format, or FIRST is not from 1 to LAST.
    """
    if not text:
        return None
    match = re.fullmatch(r"(\d+):(\d+)", text)
    first, last = map(int, match.groups()) if match else (0, 0)
    if not 1 <= first <= last:
        raise InputError(
            f"Expected --profile FIRST:LAST, the steps to trace, counted from 1 since this start, "
            f"such as {DEFAULT_STEP_RANGE}, but got {text!r}."
        )
    return first, last


class Profiler:
    """Traces the steps of `step_range` into `workdir`/profile; None traces nothing."""

    def __init__(self, workdir: Path, step_range: tuple[int, int] | None) -> None:
        self._directory = workdir / DIRECTORY
        self._first, self._last = step_range or (0, 0)
        self._num_started, self._is_tracing = 0, False

    def __enter__(self) -> "Profiler":
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_tracing:
            self._stop()
        elif self._num_started < self._first:
            log.warning(
                "nothing is traced: --profile begins at step %d of this start, which had %d",
                self._first,
                self._num_started,
            )

    @contextlib.contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Mark the host's work for step `number`, the next step of this start, in the trace."""
        self._num_started += 1
        if self._num_started == self._first:
            jax.profiler.start_trace(self._directory)
            self._is_tracing = True
        with jax.profiler.StepTraceAnnotation(STEP_NAME, step_num=number):
            yield

    def finish(self, outputs: Any) -> None:
        """End the trace, if the step with these `outputs` was the last one to trace."""
        if self._is_tracing and self._num_started == self._last:
            # Steps are dispatched asynchronously: without this the trace ends before the step does.
            jax.block_until_ready(outputs)
            self._stop()

    def _stop(self) -> None:
        jax.profiler.stop_trace()
        self._is_tracing = False
        if jax.process_index() == 0:
            log.info(
                "traced steps %d to %d of this start: open %s with `tensorboard --logdir %s` "
                "(pip install xprof), or its *.trace.json.gz in https://ui.perfetto.dev",
                self._first,
                self._num_started,
                self._directory,
                self._directory,
            )
