"""Traces of some steps, by `jax.profiler`, for TensorBoard, XProf and Perfetto."""

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
# The first steps compile and fill the queues.
DEFAULT = "10:14"
# What a step is called in a trace.
STEP = "train"


def parse_window(text: str) -> tuple[int, int] | None:
    """The steps of "FIRST:LAST", counted from 1 where this start begins; None for "".

    Raises:
        InputError: it does not read so.
    """
    if not text:
        return None
    match = re.fullmatch(r"(\d+):(\d+)", text)
    first, last = map(int, match.groups()) if match else (0, 0)
    if not 1 <= first <= last:
        raise InputError(
            f"Expected --profile FIRST:LAST, the steps to trace, counted from 1 where this start "
            f"begins, such as {DEFAULT}, but {text!r} came."
        )
    return first, last


class Profiler:
    """Traces the steps of `window` into `workdir`/profile; does nothing for None."""

    def __init__(self, workdir: Path, window: tuple[int, int] | None) -> None:
        self._directory = workdir / DIRECTORY
        self._first, self._last = window or (0, 0)
        self._done, self._is_on = 0, False

    def __enter__(self) -> "Profiler":
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_on:
            self._stop()
        elif self._done < self._first:
            log.warning(
                "nothing is traced: --profile begins at step %d of this start, which had %d",
                self._first,
                self._done,
            )

    @contextlib.contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Around all that the host does for step `number`, which is the next one of this start."""
        self._done += 1
        if self._done == self._first:
            jax.profiler.start_trace(self._directory)
            self._is_on = True
        with jax.profiler.StepTraceAnnotation(STEP, step_num=number):
            yield

    def finish(self, outputs: Any) -> None:
        """After each step with its outputs; after the last one traced it waits for them."""
        if self._is_on and self._done == self._last:
            jax.block_until_ready(outputs)
            self._stop()

    def _stop(self) -> None:
        jax.profiler.stop_trace()
        self._is_on = False
        if jax.process_index() == 0:
            log.info(
                "traced steps %d to %d of this start: open %s with `tensorboard --logdir %s` "
                "(pip install xprof), or a *.trace.json.gz of it in https://ui.perfetto.dev",
                self._first,
                self._done,
                self._directory,
                self._directory,
            )
