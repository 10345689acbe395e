"""Multi-label videos, from the list to the prediction, through the real command line."""

import csv
import itertools
import json
import runpy
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import cv2
import numpy as np
import pytest

from vswin_jax import main
from vswin_jax.checkpoint import Checkpoints, read_metadata
from vswin_jax.data.moving_shapes.moving_shapes import write_video
from vswin_jax.predict import predict
from vswin_jax.predict import run as run_predict
from vswin_jax.reporting.metric_writer import MetricWriter
from vswin_jax.reporting.metrics_file import read_metrics

pytestmark = pytest.mark.long
ROOT = Path(__file__).parents[2]
COLOURS = {"disc": (240, 240, 240), "square": (220, 50, 40)}
SETS = ((), ("disc",), ("square",), ("disc", "square"))
STEPS = 60
SETTINGS = (
    f"--config={ROOT / 'experiments' / 'quickstart.py'}:runlocal",
    "--config.name=shapes",
    "--config.model.embed_dim=8",
    "--config.model.depths=(1,)",
    "--config.model.num_heads=(1,)",
    "--config.data.kind=files",
    "--config.data.multi_label=true",
    "--config.data.num_frames=4",
    "--config.data.resize=16",
    "--config.data.size=16",
    "--config.eval.resize=16",
    "--config.optim.learning_rate=0.02",
    "--config.train.batch_size=8",
    f"--config.train.duration={STEPS} steps",
    "--config.train.eval_every=20 steps",
    "--config.train.checkpoint_every=7 steps",
)


def _frames(names: tuple[str, ...], rng: np.random.Generator) -> np.ndarray:
    """Draw six frames of 32x32 with shapes that move over noise, each from a random position."""
    frames = rng.integers(90, 130, (6, 32, 32, 3)).astype(np.uint8)
    for name in names:
        start, speed = rng.uniform(7, 25, 2), rng.uniform(-1, 1, 2)
        for time, frame in enumerate(frames):
            x, y = (start + time * speed).round().astype(int).tolist()
            if name == "disc":
                cv2.circle(frame, (x, y), 6, COLOURS[name], -1)
            else:
                cv2.rectangle(frame, (x - 5, y - 5), (x + 5, y + 5), COLOURS[name], -1)
    return frames


def _write_set(folder: Path, takes: int, seed: int) -> list[tuple[str, tuple[str, ...]]]:
    rng, rows = np.random.default_rng(seed), []
    folder.mkdir(parents=True)
    for take, names in itertools.product(range(takes), SETS):
        path = folder / f"{take} {' and '.join(names) or 'nothing'}.mp4"
        write_video(path, _frames(names, rng), 12)
        rows.append((path.name, names))
    return rows


@dataclass(frozen=True)
class Shapes:
    """A finished run on JSON lines, evaluated on a CSV; `arguments` are without the workdir."""

    workdir: Path
    arguments: tuple[str, ...]
    printed: str
    logged: str


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Shapes:
    root = tmp_path_factory.mktemp("shapes")
    train, held_out = root / "train" / "list.jsonl", root / "val" / "list.csv"
    records = [{"path": p, "label": list(n)} for p, n in _write_set(train.parent, 8, 0)]
    train.write_text("".join(json.dumps(record) + "\n" for record in records))
    rows = [f"{path},{';'.join(names)}\n" for path, names in _write_set(held_out.parent, 4, 1)]
    held_out.write_text("".join(["path,label\n", *rows]))
    data = (f"--config.data.train={train}", f"--config.data.eval={held_out}")
    arguments = (*SETTINGS, *data)
    printed, logged = StringIO(), StringIO()
    with redirect_stdout(printed), redirect_stderr(logged):
        status = main.run([*arguments, f"--workdir={root / 'run'}"])
    assert status == 0, logged.getvalue()
    return Shapes(root / "run", arguments, printed.getvalue(), logged.getvalue())


def _error_message(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main.run(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()[-1]


def test_training_learns_the_set_of_shapes(shapes: Shapes) -> None:
    entries = read_metrics(shapes.workdir / "metrics.jsonl", "train")
    assert entries[0]["loss"] == pytest.approx(np.log(2), abs=0.05)
    assert entries[-1]["loss"] < 0.2
    assert entries[-1]["hit1"] == 1.0
    assert "top1" not in entries[-1]
    scores = read_metrics(shapes.workdir / "metrics.jsonl", "eval")
    assert [score["step"] for score in scores] == [20, 40, 60]
    assert (scores[-1]["mAP"], scores[-1]["classes"], scores[-1]["videos"]) == (1.0, 2, 16)
    assert "shapes, final: mAP 100.00%, hit@1 100.00%" in shapes.printed
    assert "mAP 100.0%" in shapes.logged


def test_the_run_writes_the_files_of_its_task(shapes: Shapes) -> None:
    directory = shapes.workdir / "evaluation"
    names = ("average_precision.csv", "average_precision.png", "predictions.csv")
    assert sorted(path.name for path in directory.iterdir()) == [
        *names,
        "predictions.png",
        "summary.json",
    ]
    assert json.loads((directory / "summary.json").read_text())["mAP"] == 1.0
    with (directory / "predictions.csv").open(newline="") as file:
        truths = {row["video"]: row["labels"] for row in csv.DictReader(file)}
    assert truths["0 disc and square.mp4"] == "disc;square"
    assert truths["0 nothing.mp4"] == ""
    for name in ("training.png", "clips.png"):
        assert (shapes.workdir / name).read_bytes().startswith(b"\x89PNG")
    assert (shapes.workdir / "label_names.txt").read_text() == "disc\nsquare\n"
    with Checkpoints(shapes.workdir / "checkpoints") as checkpoints:
        assert checkpoints.best_step() is not None
    assert read_metadata(shapes.workdir)["config"]["data"]["multi_label"] is True


def test_evaluating_again_gives_the_same_scores(shapes: Shapes) -> None:
    path = shapes.workdir / "evaluation" / "summary.json"
    before = path.read_text()
    path.unlink()
    arguments = [*shapes.arguments, f"--workdir={shapes.workdir}", "--mode=evaluate"]
    assert main.run(arguments) == 0
    assert path.read_text() == before


def test_an_interrupted_run_resumes_bit_for_bit(
    shapes: Shapes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fail after step 17; the last checkpoint is that of step 14."""
    write_train = MetricWriter.write_train

    def fail_at_step_17(self: MetricWriter, step: int, metrics: Mapping[str, float]) -> None:
        write_train(self, step, metrics)
        if step == 17:
            raise OSError("the disk went away")

    arguments = [*shapes.arguments, f"--workdir={tmp_path}"]
    monkeypatch.setattr(MetricWriter, "write_train", fail_at_step_17)
    with pytest.raises(OSError, match="disk"):
        main.run(arguments)
    monkeypatch.undo()
    assert main.run(arguments) == 0
    for kind, names in (("train", ("step", "loss", "hit1")), ("eval", ("step", "loss", "mAP"))):
        ours, theirs = (
            [tuple(entry[name] for name in names) for entry in read_metrics(path, kind)]
            for path in (tmp_path / "metrics.jsonl", shapes.workdir / "metrics.jsonl")
        )
        assert ours == theirs


def test_prediction_agrees_with_the_evaluation(shapes: Shapes) -> None:
    with (shapes.workdir / "evaluation" / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    folder = shapes.workdir.parent / "val"
    videos = [folder / row["video"] for row in rows]
    found = predict(videos, shapes.workdir / "checkpoints" / str(STEPS))
    for row, prediction in zip(rows, found, strict=True):
        assert prediction.labels == (row["class_1"], row["class_2"])
        expected = [float(row["probability_1"]), float(row["probability_2"])]
        np.testing.assert_allclose(prediction.probabilities, expected, atol=2e-6)
    sums = [sum(prediction.probabilities) for prediction in found]
    assert min(sums) < 0.5
    assert max(sums) > 1.5


def test_prediction_on_the_command_line(
    shapes: Shapes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = shapes.workdir.parent / "val" / "0 disc and square.mp4"
    plot = f"--plot={tmp_path / 'out.png'}"
    assert run_predict([str(video), f"--checkpoint={shapes.workdir}", "--topk=1", plot]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[1].split()[1] in COLOURS
    assert float(lines[1].split("%")[0]) > 50
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("split", ["train", "eval"])
def test_script_shows_the_clips(shapes: Shapes, tmp_path: Path, split: str) -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "show_clips.py"))
    arguments = [*shapes.arguments, f"--out={tmp_path}", f"--split={split}", "--count=4"]
    assert script["run"]([*arguments, "--config.loss.mixup_alpha=0.8"]) == 0
    assert (tmp_path / "clips.png").read_bytes().startswith(b"\x89PNG")


def test_script_draws_each_augmentation_of_sets(shapes: Shapes, tmp_path: Path) -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "show_clips.py"))
    arguments = [*shapes.arguments, f"--out={tmp_path}", "--augmentations"]
    assert script["run"](arguments) == 0
    assert (tmp_path / "augmentations.png").stat().st_size > 1000


def test_script_checks_the_videos(
    shapes: Shapes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check = runpy.run_path(str(ROOT / "scripts" / "check_videos.py"))["run"]
    lists = [str(shapes.workdir.parent / "val" / "list.csv"), "--processes=1"]
    output = f"--output={tmp_path / 'bad.csv'}"
    assert check([*lists, output]) == 2
    assert "expected a path and a label" in capsys.readouterr().err
    assert check([*lists, output, "--multi-label"]) == 0


@pytest.mark.parametrize("mode", ["train", "evaluate"])
def test_a_run_resumes_only_as_the_same_task(
    shapes: Shapes, mode: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Resume with the same classes, in folders, with one label a video."""
    for name in COLOURS:
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.mp4").touch()
    message = _error_message(
        capsys,
        *SETTINGS,
        f"--config.data.train={tmp_path}",
        f"--config.data.eval={tmp_path}",
        "--config.data.multi_label=false",
        f"--workdir={shapes.workdir}",
        f"--mode={mode}",
    )
    assert "config.data.multi_label to be True, as the checkpoint" in message
    assert read_metadata(shapes.workdir)["step"] > 0


def test_a_model_of_another_number_of_classes_is_rejected(
    shapes: Shapes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (*shapes.arguments, f"--workdir={tmp_path}", "--config.model.num_classes=3")
    assert "The model has 3 classes but" in _error_message(capsys, *arguments)


def test_lists_of_sets_without_the_setting(
    shapes: Shapes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    off = (*shapes.arguments, f"--workdir={tmp_path}", "--config.data.multi_label=false")
    assert "config.data.multi_label" in _error_message(capsys, *off)
