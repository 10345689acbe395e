"""The files of a timeline whose names are odd."""

import json
from pathlib import Path

import numpy as np

from vswin_jax.inference import Segment, Timeline
from vswin_jax.inference.timelines.timeline_files import write_timeline


def test_names_that_are_not_utf_8_are_valid_json(tmp_path: Path) -> None:
    name = b"caf\xe9".decode(errors="surrogateescape")
    found = Timeline(
        video=f"{name}.mp4",
        duration=2.0,
        starts=np.array([0.0, 1.0]),
        ends=np.array([1.0, 2.0]),
        probabilities=np.array([[0.9, 0.1], [0.8, 0.2]], np.float32),
        label_names=(name, "b"),
        segments=(Segment(0.0, 2.0, name, 0.85),),
    )
    write_timeline(tmp_path, found, 2, np.zeros((0, 1, 1, 3), np.uint8))
    content = json.loads((tmp_path / "timeline.json").read_text(encoding="utf-8"))
    assert content["video"] == "caf\\xe9.mp4"
    assert content["segments"][0]["class"] == content["windows"][0]["classes"][0] == "caf\\xe9"
    assert (tmp_path / "segments.csv").read_text(encoding="utf-8").splitlines()[1] == (
        "0.0,2.0,caf\\xe9,0.85"
    )
