"""Videos and classes whose names are any bytes, through training, evaluation and predictions."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from vswin_jax import main
from vswin_jax.runtime.printable import printable

if TYPE_CHECKING:
    from conftest import Run

ROOT = Path(__file__).parents[1]
CLASSES = (b"caf\xe9", b"two\nlines", b"$a^{$ and $b", "跑步 😀 שלום".encode(), b"x" * 255)
# In the order of the names as Python decodes them; a class name has no line break.
SHOWN = ("$a^{$ and $b", "caf\\xe9", "two lines", "x" * 255, "跑步 😀 שלום")


@pytest.fixture(scope="module")
def odd_run(
    tiny_run: "Run",
    tiny_arguments: tuple[str, ...],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Train on videos with odd names, and return the folder of the run and of the videos."""
    folder = tmp_path_factory.mktemp("odd")
    videos = sorted((tiny_run.workdir / "moving_shapes" / "test").glob("*/*.mp4"))
    for split in (b"train", b"val"):
        for number, name in enumerate(CLASSES):
            directory = os.path.join(os.fsencode(folder), b"a,b", split, name)
            os.makedirs(directory)
            for suffix in (b".mp4", b"\xff $x$.mp4"):
                shutil.copy(videos[number], os.path.join(directory, name[:200] + suffix))
    # Not a video: its name is in the log, and in a table.
    Path(folder, "a,b", "train", "two\nlines", os.fsdecode(b"\xfe\n.mp4")).write_text("torn")
    settings = (argument for argument in tiny_arguments[1:] if "moving_shapes" not in argument)
    status = main.run(
        [
            f"--config={ROOT / 'experiments' / 'finetune_folder.py'}:root={folder}/a,b",
            f"--workdir={folder / 'run'}",
            *settings,
            "--config.init=scratch",
            "--config.model.window_size=(2,2,2)",
            "--config.data.frame_interval=1",
            "--config.data.max_bad_fraction=1",
            "--config.data.processes=0",
            "--config.train.batch_size=11",
            "--config.train.grad_accum_steps=1",
            "--config.train.duration=2 steps",
            "--config.eval.batch_size=5",
            "--config.eval.num_clips=1",
            "--config.eval.num_crops=1",
        ]
    )
    assert status == 0
    return folder


def test_a_run_writes_every_file(odd_run: Path) -> None:
    run = odd_run / "run"
    assert (run / "label_names.txt").read_text(encoding="utf-8").splitlines() == list(SHOWN)
    with (run / "evaluation" / "predictions.csv").open(newline="", encoding="utf-8") as file:
        _, *rows = csv.reader(file)
    names = [os.fsdecode(os.path.join(n, n[:200] + b".mp4")) for n in CLASSES]
    assert {printable(name) for name in names} <= {row[0] for row in rows}
    assert [row[1] for row in rows] == [name for name in SHOWN for _ in range(2)]
    with (run / "evaluation" / "confusion.csv").open(newline="", encoding="utf-8") as file:
        assert next(csv.reader(file))[1:] == list(SHOWN)
    assert b"two\\nlines/\xfe\\n.mp4," in (run / "bad_videos.csv").read_bytes()
    for name in ("training", "evaluation/confusion", "evaluation/predictions", "clips"):
        assert (run / f"{name}.png").read_bytes().startswith(b"\x89PNG"), name
    assert json.loads((run / "config.json").read_text())["data"]["train"] == f"{odd_run}/a,b/train"


def test_predictions_are_printed_in_ascii_too(odd_run: Path) -> None:
    folder = os.path.join(os.fsencode(odd_run), b"a,b", b"val")
    videos = [os.path.join(folder, name, name[:200] + b"\xff $x$.mp4") for name in CLASSES]
    picture = odd_run / os.fsdecode(b"\xe9 $x$.png")
    command = [sys.executable, "-m", "vswin_jax.predict", *videos[:4], "--topk=1"]
    done = subprocess.run(
        [*command, "--checkpoint", odd_run / "run", "--plot", picture],
        cwd=ROOT,
        env={**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": "ascii", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
    )
    assert done.returncode == 0
    (line,) = done.stderr.splitlines()
    assert line.isascii()
    assert line.startswith(b"the checkpoint of step 2 in ")
    names = [printable(os.fsdecode(video)) for video in videos[:4]]
    expected = [name.encode("ascii", "backslashreplace") for name in names]
    assert done.stdout.splitlines()[::2] == expected
    assert picture.read_bytes().startswith(b"\x89PNG")
