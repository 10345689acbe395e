"""What other processes are asked to do in the tests; it imports nothing that takes time."""

import os

import numpy as np


def end(out: np.ndarray) -> None:
    os._exit(1)


def fill(value: int, out: np.ndarray) -> None:
    out[:] = value


def fill_with_text(text: str, out: np.ndarray) -> None:
    out[:] = int(text)
