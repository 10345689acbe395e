"""The benchmark of explanations: its boxes, its shares, and the recorded result."""

import dataclasses
import importlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from vswin_jax.data.moving_shapes.moving_scene import (
    MOTIONS,
    make_scene,
    object_boxes,
    render,
)

if TYPE_CHECKING:
    from conftest import Run

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize("motion", ["move_left", "grow", "rotate_clockwise"])
def test_boxes_hold_the_object_and_no_more(motion: str) -> None:
    scene = make_scene(np.random.default_rng(3), 32)
    boxes = object_boxes(scene, MOTIONS[motion], 6)
    # The object in white on black.
    white = np.repeat(scene.sprite[..., 3:], 4, axis=-1)
    plain = dataclasses.replace(scene, sprite=white, background=np.zeros_like(scene.background))
    seen = render(plain, MOTIONS[motion], 6)[..., 0] > 127
    assert seen.any((1, 2)).all()
    assert not (seen & ~boxes).any()
    for axis in (1, 2):
        rows = boxes.any(axis)
        # A concave object that wraps may leave rows between its parts empty.
        assert (seen.any(axis) == rows).mean() > 0.98


def test_it_measures_a_run(tiny_run: "Run", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    result = importlib.import_module("explanations").measure(tiny_run.workdir, scenes=1)
    assert result["clips"] == 8
    shares = result["mass_in_box"]["stage 0"]
    assert 0 < result["box_share_of_area"] < 1
    assert all(0 < share < 1 for share in shares.values())


def test_the_recorded_maps_of_the_quickstart_lie_in_the_box() -> None:
    recorded = json.loads((BENCHMARKS / "results" / "explanations.json").read_text())
    for shares in recorded["mass_in_box"].values():
        assert shares["trained"] > recorded["box_share_of_area"] + 0.15
        assert shares["trained"] > shares["random"] + 0.15
