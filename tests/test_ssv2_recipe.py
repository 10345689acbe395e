"""The recipe of Something-Something v2, end to end on files and lists as they are published."""

import csv
import json
import runpy
from collections.abc import Sequence
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from vswin_jax import main
from vswin_jax.data.moving_shapes.moving_scene import MOTIONS, make_scene, render

pytestmark = pytest.mark.long
ROOT = Path(__file__).parents[1]
SSV2 = f"{ROOT / 'experiments' / 'ssv2.py'}:runlocal"
# In the order of their numbers, which is not the alphabet's; the first has no video.
TEMPLATES = {
    "Pretending to turn [something]": "",
    "Moving [something] up": "move_up",
    "Moving [something] away from [something]": "shrink",
    "Moving [something] down": "move_down",
}
IDS = {"train": range(100, 112), "validation": range(7, 13)}


def write_webm(path: Path, frames: np.ndarray) -> None:
    """uint8 [T, H, W, 3] as VP9 in WebM, which is what 20BN published."""
    with av.open(str(path), "w", format="webm") as container:
        stream = container.add_stream("libvpx-vp9", rate=12)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "20", "deadline": "realtime", "cpu-used": "8"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def records(split: str) -> list[dict[str, object]]:
    shown = [template for template, motion in TEMPLATES.items() if motion]
    templates = [shown[number % len(shown)] for number in range(len(IDS[split]))]
    return [
        {
            "id": str(video),
            "label": template.replace("[something]", "a cup").lower(),
            "template": template,
            "placeholders": ["a cup"] * template.count("["),
        }
        for video, template in zip(IDS[split], templates, strict=True)
    ]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """labels/{train,validation,labels}.json and videos/ID.webm, 12 and 6 of them."""
    root = tmp_path_factory.mktemp("ssv2")
    (root / "labels").mkdir()
    (root / "videos").mkdir()
    numbers = {
        template.replace("[", "").replace("]", ""): str(number)
        for number, template in enumerate(TEMPLATES)
    }
    (root / "labels" / "labels.json").write_text(json.dumps(numbers))
    for split in IDS:
        (root / "labels" / f"{split}.json").write_text(json.dumps(records(split)))
        for record in records(split):
            video = str(record["id"])
            scene = make_scene(np.random.default_rng(int(video)), 48)
            # Of another length each: uniform sampling has to span them all.
            frames = render(scene, MOTIONS[TEMPLATES[str(record["template"])]], 6 + int(video) % 9)
            write_webm(root / "videos" / f"{video}.webm", frames[:, :36])
    return root


@pytest.fixture(scope="module")
def arguments(published: Path, tiny_arguments: Sequence[str]) -> list[str]:
    return [
        f"--config={SSV2}",
        *(argument for argument in tiny_arguments[1:] if "shapes" not in argument),
        "--config.data.kind=files",
        f"--config.data.train={published / 'labels' / 'train.json'}",
        f"--config.data.eval={published / 'labels' / 'validation.json'}",
        f"--config.data.root={published / 'videos'}",
    ]


def test_it_trains_and_scores(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run([*arguments, f"--workdir={tmp_path}"]) == 0
    assert "on 6 videos, 1x3 views" in capsys.readouterr().out
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["data"]["sampling"], config["data"]["rand_augment"]) == (
        "uniform",
        {"n": 4, "m": 7},
    )
    assert config["loss"] == {
        **dict.fromkeys(("mixup_alpha", "cutmix_alpha"), 0.0),
        "label_smoothing": 0.1,
        "random_erasing": 0.25,
    }
    names = (tmp_path / "label_names.txt").read_text().splitlines()
    assert names == [name.replace("[", "").replace("]", "") for name in TEMPLATES]
    with (tmp_path / "evaluation" / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    shown = {row["video"]: row["label"] for row in rows}
    assert shown == {
        f"{record['id']}.webm": str(record["template"]).replace("[", "").replace("]", "")
        for record in records("validation")
    }
    assert not (tmp_path / "bad_videos.csv").exists()
    assert cv2.imread(str(tmp_path / "clips.png")).shape[0] > 4 * 128


def test_its_clips_and_augmentations_are_shown(arguments: list[str], tmp_path: Path) -> None:
    run = runpy.run_path(str(ROOT / "scripts" / "show_clips.py"))["run"]
    assert run([*arguments, f"--out={tmp_path}", "--augmentations", "--count=4"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("augmentations.png", "clips.mp4", "clips.png")
    ]
