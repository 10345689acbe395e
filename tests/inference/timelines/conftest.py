"""The model of the tests of timelines."""

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Run

    from vswin_jax.inference import WindowScorer


@pytest.fixture(scope="package")
def scorer(tiny_run: "Run") -> "WindowScorer":
    from vswin_jax.inference import WindowScorer
    from vswin_jax.inference.opened_checkpoint import open_checkpoint

    return WindowScorer(open_checkpoint(tiny_run.workdir))
