"""Functions that worker processes call in tests; the module imports nothing slow."""

import itertools
import os
import signal
from typing import Any

import cv2
import numpy as np

LEAKED: list[np.ndarray] = []


def exit_process(out: np.ndarray) -> None:
    os._exit(1)


def fill(value: int, out: np.ndarray) -> None:
    out[:] = value


def fill_with_text(text: str, out: np.ndarray) -> None:
    out[:] = int(text)


def compute_forever() -> None:
    # One call of C code, in which Python runs no signal handler.
    sum(itertools.repeat(1))


def every_frame_at_the_last_moment(video: Any) -> np.ndarray:
    """Choose all frames when nearly no time is left."""
    while signal.getitimer(signal.ITIMER_PROF)[0] > 0.2:
        sum(range(1000))
    return np.arange(video.num_frames)


def allocate(size: int) -> int:
    # The pages are never touched, which would take long.
    return len(np.empty(size, np.uint8))


def leak(size: int) -> None:
    LEAKED.append(np.empty(size, np.uint8))


def decode_image(size: int) -> tuple[int, ...]:
    return cv2.resize(np.zeros((2, 2), np.uint8), (size, size)).shape
