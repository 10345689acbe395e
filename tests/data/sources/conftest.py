"""Helpers of the tests of sources."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vswin_jax.data import open_source
from vswin_jax.errors import InputError


def touch(folder: Path, *names: str) -> None:
    """Create empty files, and the folders that contain them."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def open_error(path: str | Path, **kwargs: Any) -> str:
    """Return the message of the InputError that `open_source` raises: one line, one sentence."""
    with pytest.raises(InputError) as caught:
        open_source(path, **kwargs)
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message
    return message


def failures_in_threads(is_correct: Callable[[int], bool], size: int, checks: int) -> list[int]:
    """Check random indices below `size` in four threads at once and return those that fail."""
    failures: list[int] = []

    def check(seed: int) -> None:
        for index in np.random.default_rng(seed).integers(0, size, checks).tolist():
            if not is_correct(index):
                failures.append(index)

    threads = [threading.Thread(target=check, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failures
