"""The command line, run in this process: files of a run and messages for wrong inputs."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from cheap_programs import device_environment

from vswin_jax import main
from vswin_jax.checkpoint import load_for_inference
from vswin_jax.config import flags
from vswin_jax.data.sources.sources import open_source
from vswin_jax.errors import InputError
from vswin_jax.reporting.metrics_file import read_metrics
from vswin_jax.training import run_training as training_run
from vswin_jax.weights import to_state_dict

if TYPE_CHECKING:
    from conftest import Run

ROOT = Path(__file__).parents[1]
QUICKSTART = f"--config={ROOT / 'experiments' / 'quickstart.py'}"
K400 = f"--config={ROOT / 'experiments' / 'k400.py'}"
FOLDER = f"--config={ROOT / 'experiments' / 'finetune_folder.py'}"


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Return the one line that a refused command line ends with."""
    assert main.run([str(argument) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    *_, last = captured.err.splitlines()
    assert last.startswith("error: ")
    return last


def read_label_names(workdir: Path) -> list[str]:
    return (workdir / "label_names.txt").read_text().splitlines()


def test_a_run_writes_every_file(tiny_run: "Run") -> None:
    workdir = tiny_run.workdir
    assert tiny_run.status == 0
    assert "quickstart, final: top-1" in tiny_run.printed
    assert "on 8 videos, 1x1 views" in tiny_run.printed
    assert "step 40/40" in tiny_run.logged
    assert json.loads((workdir / "config.json").read_text())["model"]["embed_dim"] == 4
    for name in ("training.png", "evaluation/confusion.png", "evaluation/predictions.png"):
        assert (workdir / name).read_bytes().startswith(b"\x89PNG"), name
    summary = json.loads((workdir / "evaluation" / "summary.json").read_text())
    assert (summary["videos"], summary["step"]) == (8, 40)
    assert len((workdir / "evaluation" / "predictions.csv").read_text().splitlines()) == 9
    assert list(workdir.glob("events.out.tfevents*"))
    assert (workdir / "moving_shapes" / "train" / "grow").is_dir()


def test_evaluating_again_gives_the_same_scores(tiny_run: "Run") -> None:
    path = tiny_run.workdir / "evaluation" / "summary.json"
    before = path.read_text()
    path.unlink()
    assert main.run([*tiny_run.arguments, "--mode=evaluate"]) == 0
    assert path.read_text() == before


def test_a_finished_run_is_reported_as_finished(
    tiny_run: "Run", capsys: pytest.CaptureFixture[str]
) -> None:
    path = tiny_run.workdir / "evaluation" / "summary.json"
    before = path.stat().st_mtime_ns
    assert main.run(tiny_run.arguments) == 0
    assert "finished: all 40 steps" in capsys.readouterr().out
    assert path.stat().st_mtime_ns == before


def test_an_evaluation_that_a_kill_prevented_runs_at_the_next_start(
    tiny_run: "Run", capsys: pytest.CaptureFixture[str]
) -> None:
    path = tiny_run.workdir / "evaluation" / "summary.json"
    before = path.read_text()
    path.write_text(json.dumps({**json.loads(before), "step": 7}))
    assert main.run(tiny_run.arguments) == 0
    assert "quickstart, final: top-1" in capsys.readouterr().out
    assert path.read_text() == before


def test_evaluating_a_file_of_weights(
    tiny_run: "Run",
    tiny_arguments: tuple[str, ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    params, _ = load_for_inference(tiny_run.workdir / "checkpoints" / "40")
    state = to_state_dict(params)
    np.savez(tmp_path / "whole.npz", **state)
    heads = [name for name in state if "head" in name]
    np.savez(tmp_path / "headless.npz", **{k: v for k, v in state.items() if k not in heads})
    arguments = (
        *tiny_arguments,
        f"--workdir={tmp_path / 'run'}",
        f"--config.data.root={tiny_run.workdir / 'moving_shapes'}",
        "--mode=evaluate",
        "--config.init=pretrained",
    )
    assert main.run([*arguments, f"--config.init_from={tmp_path / 'whole.npz'}"]) == 0
    found, known = (
        json.loads((workdir / "evaluation" / "summary.json").read_text())
        for workdir in (tmp_path / "run", tiny_run.workdir)
    )
    weights = {
        "step": None,
        "checkpoint": str(tmp_path / "whole.npz"),
        "checkpoint_reason": "weights of config.init_from",
    }
    assert found == known | weights
    capsys.readouterr()
    headless = f"--config.init_from={tmp_path / 'headless.npz'}"
    assert "no head of 8 classes" in refusal(capsys, *arguments, headless)


def test_order_of_the_data_reaches_the_training(
    tiny_run: "Run",
    tiny_arguments: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked: dict[str, Any] = {}

    def train(config: Any, workdir: Path, make_batches: Callable, **settings: Any) -> None:
        asked.update(settings, batch=next(make_batches(0)))
        raise InputError("seen enough")

    monkeypatch.setattr(training_run, "train", train)
    data = {"root": tiny_run.workdir / "moving_shapes", "aug_repeats": 2, "class_balance": 0.5}
    data |= {"fps": 6.0, "flip": 1.0, "flip_labels": "left_right", "num_frames": 3}
    overrides = [f"--config.data.{name}={value}" for name, value in data.items()]
    arguments = (*tiny_arguments, f"--workdir={tmp_path}", *overrides)
    assert main.run(arguments) == 2
    logged = capsys.readouterr().err
    assert "mirrored clips exchange the labels of 1 pair of classes" in logged
    assert "seen enough" in logged
    assert asked["num_examples"] == 8 * 2
    batch = asked["batch"]
    assert batch["id"][:2].tolist() == batch["id"][2:].tolist()
    # The files have 12 frames a second.
    assert (np.diff(batch["frames"]) == 2).all()
    names = read_label_names(tmp_path)
    own = open_source(tiny_run.workdir / "moving_shapes" / "train").labels[batch["id"]]
    exchanged = {"move_left": "move_right", "move_right": "move_left"}
    expected = [exchanged.get(names[label], names[label]) for label in own]
    assert [names[label] for label in batch["label"]] == expected


@pytest.mark.parametrize("mode", ["train", "evaluate"])
def test_checkpoint_of_another_model(
    tiny_run: "Run", mode: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = (tiny_run.workdir / "config.json").read_bytes()
    other = (*tiny_run.arguments, "--config.model.embed_dim=6", f"--mode={mode}")
    assert "shape" in refusal(capsys, *other)
    assert (tiny_run.workdir / "config.json").read_bytes() == config


def test_unknown_choice_of_the_model_before_videos_are_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main.run([QUICKSTART, f"--workdir={tmp_path}", "--config.model.tokenwise=fast"])
    assert status == 2
    assert "Unknown config.model.tokenwise implementation 'fast'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.long
def test_run_started_from_a_run(
    tiny_run: "Run",
    tiny_arguments: tuple[str, ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    status = main.run(
        [
            *tiny_arguments,
            f"--workdir={tmp_path}",
            "--config.init=pretrained",
            f"--config.init_from={tiny_run.workdir}",
            f"--config.data.root={tiny_run.workdir / 'moving_shapes'}",
        ]
    )
    assert status == 0
    assert "0 transformed, 0 fresh, 0 unexpected" in capsys.readouterr().err
    assert not (tmp_path / "moving_shapes").exists()
    first, second = (
        read_metrics(workdir / "metrics.jsonl", "train") for workdir in (tiny_run.workdir, tmp_path)
    )
    assert second[0]["loss"] != first[0]["loss"]


def test_run_started_from_an_image_model(
    tiny_run: "Run",
    tiny_arguments: tuple[str, ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    params, _ = load_for_inference(tiny_run.workdir / "checkpoints" / "40")
    state = to_state_dict(params)
    state["patch_embed.proj.weight"] = state["patch_embed.proj.weight"].sum(2)
    state["head.weight"], state["head.bias"] = np.zeros((1000, 4)), np.zeros(1000)
    for name in state:
        if name.endswith("bias_table"):
            state[name] = state[name][:49]
    np.savez(tmp_path / "image.npz", **state)
    status = main.run(
        [
            *tiny_arguments,
            f"--workdir={tmp_path / 'run'}",
            "--config.init=pretrained",
            f"--config.init_from={tmp_path / 'image.npz'}",
            f"--config.data.root={tiny_run.workdir / 'moving_shapes'}",
        ]
    )
    assert status == 0
    logged = capsys.readouterr().err
    assert "image.npz (microsoft): " in logged
    assert "2 transformed, 2 fresh, 0 unexpected" in logged
    assert "fresh, the file has the classifier of an image model" in logged


@pytest.mark.parametrize(
    ("arguments", "profile"),
    [
        ((), None),
        (("--profile",), (10, 14)),
        (("--profile", "--mode=train"), (10, 14)),
        (("--profile", "2:3"), (2, 3)),
        (("--profile=4:4", "--mode", "train"), (4, 4)),
        (("--topology", "profile", "--topology="), None),
    ],
)
def test_profile_with_and_without_its_steps(
    arguments: tuple[str, ...], profile: tuple[int, int] | None
) -> None:
    asked = flags.parse([QUICKSTART, *arguments, "--workdir=w"])
    assert asked is not None
    assert (asked.profile, asked.mode, asked.workdir) == (profile, "train", "w")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), ("--config FILE", "--help")),
        ((QUICKSTART,), ("--workdir DIR",)),
        ((QUICKSTART, "--workdir=gs://bucket/run"), ("--workdir", "'gs://bucket/run'", "machine")),
        ((QUICKSTART, "--workdir=/dev/null/run"), ("--workdir", "/dev/null' is a file")),
        ((QUICKSTART, "--workdir=/dev/null", "--mode=evaluate"), ("--workdir", "is a file")),
        ((QUICKSTART, "--workdir=w", "--mode=eval"), ("'eval'", "evaluate", "train")),
        (("--config=nowhere.py", "--workdir=w"), ("'nowhere.py'", "quickstart")),
        ((QUICKSTART, "--workdir=w", "--config.optim.learning_rat=1"), ("'optim.learning_rate'",)),
        ((QUICKSTART, "--workdir=w", "--config.learning_rate=1"), ("'optim.learning_rate'",)),
        ((QUICKSTART, "--workdir=w", "--config.optim.learning_rate=fast"), ("fast", "number")),
        ((QUICKSTART, "--workdir=w", "--config.model.dtype=float16"), ("float16", "bfloat16")),
        ((QUICKSTART, "--workdir=w", "--worker=3"), ("--worker", "--workdir?")),
        (
            (QUICKSTART, "--workdir=w", "--config.train.accumulate=2"),
            ("config.train.accumulate is now called config.train.grad_accum_steps",),
        ),
        ((QUICKSTART, "--workdir=w", "--config.seed"), ("--config.seed=VALUE",)),
        ((f"{K400}:variant=huge", "--workdir=w"), ("'huge'", "tiny", "base")),
        (
            (f"{K400}:variant=base,pretrain=22k", "--workdir=w"),
            ("unset", "init_from=PATH", "swin_base_patch4_window7_224_22k.pth", "init=scratch"),
        ),
        ((K400, "--workdir=w", "--config.init_from=no.npz"), ("'no.npz'", "init=scratch")),
        ((K400, "--workdir=w", "--config.init=scratch"), ("data.train", "unset")),
        ((K400, "--workdir=w", "--mode=evaluate"), ("checkpoint", "'w'", "init_from")),
        ((QUICKSTART, "--workdir=w", "--profile=5:2"), ("FIRST:LAST", "'5:2'", "10:14")),
        ((QUICKSTART, "--workdir=w", "--mode=evaluate", "--profile"), ("--mode=train",)),
        ((QUICKSTART, "--mode=dry_run", "--allow_changes"), ("--mode=train", "'dry_run'")),
        ((QUICKSTART, "--workdir=w", "--config.optim.moment_dtype=half"), ("'half'", "bfloat16")),
        ((QUICKSTART, "--workdir=w", "--config.train.hang_after=-1"), ("hang_after", "0 or more")),
        ((QUICKSTART, "--workdir=w", "--config.train.compilation_cache="), ("workdir", "off")),
    ],
)
def test_wrong_command_line(
    arguments: tuple[str, ...],
    words: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    sentence = refusal(capsys, *arguments)
    assert [word for word in words if word not in sentence] == []
    assert list(tmp_path.iterdir()) == []


def _empty(root: Path) -> None:
    (root / "train").mkdir(parents=True)


def _class_without_videos(root: Path) -> None:
    for name in ("train/jump", "train/run", "test/jump", "test/run"):
        (root / name).mkdir(parents=True)
        (root / name / "a.mp4").write_bytes(b"")
    (root / "train" / "run" / "a.mp4").unlink()


def _unreadable_video(root: Path) -> None:
    for name in ("train/jump", "train/run", "test/jump", "test/run"):
        (root / name).mkdir(parents=True)
        (root / name / "holiday.mp4").write_text("no video at all")


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (lambda root: None, ("train",)),
        (_empty, ("train", "sub-folder")),
        (_class_without_videos, ("'run'", "no videos")),
        (_unreadable_video, ("holiday.mp4",)),
    ],
    ids=["missing folder", "empty folder", "class without videos", "unreadable video"],
)
def test_wrong_data(
    prepare: Callable[[Path], None],
    words: tuple[str, ...],
    tiny_arguments: tuple[str, ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    prepare(tmp_path / "videos")
    settings = (a for a in tiny_arguments[1:] if "eval.resize" not in a)
    sentence = refusal(
        capsys,
        f"{FOLDER}:root={tmp_path / 'videos'}",
        f"--workdir={tmp_path / 'run'}",
        *settings,
        "--config.eval.resize=16",
        "--config.init=scratch",
        "--config.model.window_size=(2,2,2)",
    )
    assert [word for word in words if word not in sentence] == []


def test_missing_annotation_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = tmp_path / "list of videos.txt"
    train = f"--config.data.train={missing}"
    sentence = refusal(capsys, K400, "--workdir=w", "--config.init=scratch", train)
    assert str(missing) in sentence


def test_internal_errors_keep_their_traceback(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("def get_config(argument):\n    return 1 / 0\n")
    with pytest.raises(ZeroDivisionError):
        main.run([f"--config={tmp_path / 'broken.py'}", "--workdir=w"])


def test_help_and_errors_as_a_process() -> None:
    command = [sys.executable, "-m", "vswin_jax.main"]
    # A notebook's kernel has its own plotting backend, which its cells' commands inherit.
    environment = {**os.environ, "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    helped = subprocess.run(
        [*command, "--help"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert (helped.returncode, helped.stderr) == (0, "")
    assert "--config.KEY=VALUE" in helped.stdout
    wrong = [*command, QUICKSTART, "--workdir=w", "--config.sed=1"]
    refused = subprocess.run(wrong, cwd=ROOT, capture_output=True, text=True)
    assert (refused.returncode, refused.stdout) == (2, "")
    begun, error = refused.stderr.splitlines()
    assert begun.endswith(
        ": training by " + QUICKSTART.removeprefix("--config=") + " in w; importing JAX"
    )
    assert error.startswith("error: Unknown config key 'sed': did you mean 'seed'?")


@pytest.mark.long
def test_a_run_resumes_and_evaluates_sharded_over_four_devices(
    tiny_run: "Run", tmp_path: Path
) -> None:
    """A one-device run resumes with sharded parameters and is evaluated on one device again."""
    workdir = tmp_path / "run"
    shutil.copytree(tiny_run.workdir, workdir)
    arguments = (
        *tiny_run.arguments[:-1],
        f"--workdir={workdir}",
        "--config.train.duration=41 steps",
    )
    environment = device_environment(4)
    command = [sys.executable, "-m", "vswin_jax.main", *arguments]
    command += ["--config.mesh.fsdp=2", "--config.mesh.model=2", "--allow_changes"]
    command.append("--show_parameters")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "('fsdp', 'model')" in done.stderr, "the overview does not show the sharding of kernels"
    split, whole = _summary(workdir), _evaluated_again(arguments, workdir)
    assert split["step"] == whole["step"] == 41
    assert split == pytest.approx(whole, rel=1e-4)


def _summary(workdir: Path) -> dict[str, Any]:
    summary = json.loads((workdir / "evaluation" / "summary.json").read_text())
    return {name: value for name, value in summary.items() if not isinstance(value, str)}


def _evaluated_again(arguments: Sequence[str], workdir: Path) -> dict[str, Any]:
    (workdir / "evaluation" / "summary.json").unlink()
    assert main.run([*arguments, "--mode=evaluate"]) == 0
    return _summary(workdir)
