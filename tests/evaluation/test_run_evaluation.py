"""A run is evaluated with its own settings; other settings are named, and get another directory."""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from vswin_jax import main
from vswin_jax.reporting.metrics_file import read_metrics

if TYPE_CHECKING:
    from conftest import Run

QUICKSTART = Path(__file__).parents[2] / "experiments" / "quickstart.py"


def summary(workdir: Path, name: str = "evaluation") -> dict[str, Any]:
    return json.loads((workdir / name / "summary.json").read_text())


def evaluate(run: "Run", *arguments: str) -> int:
    return main.run([f"--workdir={run.workdir}", "--mode=evaluate", *arguments])


def test_a_run_is_evaluated_with_its_own_settings_whatever_file_is_named(
    tiny_run: "Run", capsys: pytest.CaptureFixture[str]
) -> None:
    before = summary(tiny_run.workdir)
    assert (before["score"], before["step"], before["views"]) == ("final", 40, "1x1")
    assert (before["size"], before["resize"]) == (16, 16)
    assert (before["num_frames"], before["frame_interval"], before["dtype"]) == (4, 1, "float32")
    assert before["checkpoint"] == "checkpoints/40"
    assert (before["checkpoint_reason"], before["omitted"]) == ("latest", 0)
    for file in ([], [f"--config={QUICKSTART}"]):
        (tiny_run.workdir / "evaluation" / "summary.json").unlink()
        assert evaluate(tiny_run, *file) == 0
        assert summary(tiny_run.workdir) == before
        captured = capsys.readouterr()
        assert "evaluating the checkpoint of step 40" in captured.err
        assert "quickstart, final: top-1" in captured.out
        assert captured.err.count("the run's own config holds") == len(file)
    assert "which are ignored (the run's in parentheses): " in captured.err
    assert "config.data.num_frames=8 (4)" in captured.err


def test_other_settings_are_named_and_do_not_replace_the_score(
    tiny_run: "Run", capsys: pytest.CaptureFixture[str]
) -> None:
    before = (tiny_run.workdir / "evaluation" / "summary.json").read_bytes()
    assert evaluate(tiny_run, "--config.eval.num_clips=2", "--config.data.frame_interval=2") == 0
    captured = capsys.readouterr()
    assert "own config: config.eval.num_clips is 2 and was 1" in captured.err
    assert "own config: config.data.frame_interval is 2 and was 1" in captured.err
    name = "evaluation-2x1-frame_interval-2"
    assert captured.out.strip().endswith(f"see {tiny_run.workdir / name}")
    assert "under other settings: top-1" in captured.out
    found = summary(tiny_run.workdir, name)
    assert (found["score"], found["views"]) == ("under other settings", "2x1")
    assert found["frame_interval"] == 2
    assert (tiny_run.workdir / "evaluation" / "summary.json").read_bytes() == before


def test_settings_without_effect_on_the_score_keep_the_directory(tiny_run: "Run") -> None:
    before = summary(tiny_run.workdir)
    assert evaluate(tiny_run, "--config.eval.batch_size=3", "--config.data.processes=0") == 0
    after = summary(tiny_run.workdir)
    assert after.pop("loss") == pytest.approx(before.pop("loss"), rel=1e-5)
    assert after == before


def test_the_final_score_is_in_the_metrics_once(tiny_run: "Run") -> None:
    path = tiny_run.workdir / "metrics.jsonl"
    (final,) = read_metrics(path, "final")
    scores = summary(tiny_run.workdir)
    assert final == {"kind": "final", "step": 40} | {k: scores[k] for k in final if k in scores}
    lines = path.read_text()
    # As a kill after the metrics and before the report leaves them.
    (tiny_run.workdir / "evaluation" / "summary.json").unlink()
    assert main.run(tiny_run.arguments) == 0
    assert path.read_text() == lines
    assert summary(tiny_run.workdir) == scores


def test_a_run_resumes_without_its_file_and_checks_what_is_changed(
    tiny_run: "Run", tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workdir = f"--workdir={tiny_run.workdir}"
    videos = shutil.copytree(tiny_run.workdir / "moving_shapes" / "train", tmp_path / "train")
    shutil.copy(next(videos.glob("grow/*.mp4")), videos / "grow" / "second.mp4")
    held_out = f"--config.data.eval={tiny_run.workdir / 'moving_shapes' / 'test'}"
    assert main.run([workdir]) == 0
    assert "finished: all 40 steps" in capsys.readouterr().out
    for change, description in {
        "--config.optim.learning_rate=0.1": "config.optim.learning_rate is 0.1 and was 0.002",
        "--config.train.duration=50 steps": "config.train.duration is '50 steps' and was '40",
        "--config.train.batch_size=8": "config.train.batch_size is 8 and was 4",
        f"--config.data.train={videos}": "there are 9 training videos and were 8",
    }.items():
        assert main.run([workdir, change, *([held_out] if "data." in change else [])]) == 2
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith("error: Expected to resume ")
        assert description in last


def test_a_workdir_without_a_checkpoint_needs_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for mode in ("train", "evaluate", "dry_run"):
        assert main.run([f"--workdir={tmp_path}", f"--mode={mode}"]) == 2
        last = capsys.readouterr().err.splitlines()[-1]
        assert "Expected --config FILE, since" in last
        assert "has no checkpoint with a config" in last
    assert list(tmp_path.iterdir()) == []
