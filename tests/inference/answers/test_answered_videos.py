"""Answers in files are those of the evaluation, and a later start completes them."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import vswin_jax
from vswin_jax.errors import InputError
from vswin_jax.evaluation.run_evaluation import evaluate_checkpoint
from vswin_jax.inference import AnsweredVideos, predict_to_file
from vswin_jax.inference.answers.answer_file import AnswerFile
from vswin_jax.inference.answers.answer_formats import format_of, read_answers, read_settings
from vswin_jax.inference.answers.answer_rows import Answer
from vswin_jax.inference.answers.earlier_answers import EarlierAnswers
from vswin_jax.inference.opened_checkpoint import open_checkpoint
from vswin_jax.predict import run

if TYPE_CHECKING:
    from conftest import Run

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def folder(tiny_run: "Run", tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of classes with eight videos, one of which is damaged."""
    path = tmp_path_factory.mktemp("videos") / "test"
    for number, video in enumerate(
        sorted((tiny_run.workdir / "moving_shapes" / "test").glob("*/*.mp4"))
    ):
        target = path / video.parent.name / f"{number}.mp4"
        target.parent.mkdir(parents=True)
        shutil.copy(video, target)
    (path / "move_left" / "0_torn.mp4").write_bytes(b"torn")
    return path


def answer(tiny_run: "Run", folder: Path, out: Path, **options: object) -> AnsweredVideos:
    options = {"all_scores": True, "processes": 0, **options}
    return predict_to_file(folder, tiny_run.workdir, out, **options)


@pytest.mark.parametrize("batch_size", [1, 5])
def test_answers_equal_those_of_the_evaluation(
    tiny_run: "Run", folder: Path, tmp_path: Path, batch_size: int
) -> None:
    config = open_checkpoint(tiny_run.workdir).config.copy_and_resolve_references()
    config.data.kind, config.data.eval, config.data.max_bad_fraction = "files", str(folder), 0.5
    config.eval.num_clips, config.eval.batch_size, config.data.processes = 2, 4, 0
    shutil.copytree(tiny_run.workdir / "checkpoints", tmp_path / "run" / "checkpoints")
    expected = evaluate_checkpoint(config, tmp_path / "run")
    out = tmp_path / "answers.jsonl"
    options = {"kind": "folder", "views": (2, 1), "batch_size": batch_size}
    answered = answer(tiny_run, folder, out, **options)
    good = [one for one in read_answers(out) if one.error is None]
    scores = np.array([one.scores for one in good])
    np.testing.assert_allclose(scores, expected.probabilities, rtol=0, atol=1e-6)
    names = read_settings(out)["label_names"]
    assert [one.truth for one in good] == [(names[k],) for k in expected.labels]
    assert [one.classes[0] for one in good] == [names[k] for k in expected.predicted]
    assert answered.scores["top1"] == pytest.approx(expected.top1)
    assert [bad.video for bad in answered.unreadable] == ["move_left/0_torn.mp4"]


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_a_second_start_answers_new_videos_alone(
    tiny_run: "Run", folder: Path, tmp_path: Path, suffix: str
) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    whole, grown = tmp_path / f"whole.{suffix}", tmp_path / f"grown.{suffix}"
    answered = answer(tiny_run, folder, whole)
    assert (answered.num_videos, answered.earlier) == (8, 0)
    some = tmp_path / "some"
    shutil.copytree(folder, some, ignore=shutil.ignore_patterns("3.mp4"))
    answer(tiny_run, some, grown)
    shutil.copytree(folder, some, dirs_exist_ok=True)
    again = answer(tiny_run, some, grown)
    # The damaged video has its answer too: the reason.
    assert (again.num_videos, again.earlier) == (8, 8)
    ours, theirs = read_answers(grown), read_answers(whole)
    assert [one.scores for one in ours] == [one.scores for one in theirs]
    assert [one.classes for one in ours] == [one.classes for one in theirs]
    assert sorted(os.listdir(tmp_path)) == sorted(
        [*(f"{n}.{suffix}{s}" for n in ("whole", "grown") for s in ("", ".settings.json")), "some"]
    )


def test_a_killed_start_is_completed_to_the_same_file(
    tiny_run: "Run", folder: Path, tmp_path: Path, compiled_programs: Path
) -> None:
    whole, killed = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    answer(tiny_run, folder, whole, batch_size=1)
    # The last video is a pipe that nobody writes to: the process waits for it.
    videos = sorted(folder.glob("*/*.mp4"))
    pipe = tmp_path / "later.mp4"
    os.mkfifo(pipe)
    rows = [f"{video} {video.parent.name}\n" for video in videos]
    (tmp_path / "list.txt").write_text("".join([*rows, f"{pipe} grow\n"]))
    arguments = [str(tmp_path / "list.txt"), "--checkpoint", str(tiny_run.workdir)]
    arguments += ["--out", str(killed), "--scores", "all", "--batch-size", "1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "vswin_jax.predict", *arguments]
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    while not killed.exists() or killed.read_bytes().count(b"\n") < 4:
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    with killed.open("ab") as file:
        file.write(b'{"video": "half of a')
    pipe.unlink()
    shutil.copy(videos[0], pipe)
    assert run(arguments) == 1  # the damaged video
    ours, theirs = read_answers(killed), read_answers(whole)
    assert [one.scores for one in ours[:-1]] == [one.scores for one in theirs]
    assert ours[-1].scores == ours[0].scores
    assert [json.loads(line)["video"] for line in killed.read_text().splitlines()] == [
        str(path) for path in [*videos, pipe]
    ]


def test_other_settings_are_refused_and_overwritten_on_request(
    tiny_run: "Run", folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "answers.jsonl"
    video = next(folder.glob("move_left/[0-9].mp4"))
    answer(tiny_run, video, out, topk=2)
    before = out.read_bytes()
    with pytest.raises(InputError, match=r"other settings \(topk 2, not 3\): give another name"):
        answer(tiny_run, video, out, topk=3)
    assert out.read_bytes() == before
    assert answer(tiny_run, video, out, topk=3, overwrite=True).earlier == 0
    assert len(read_answers(out)[0].classes) == 3
    foreign = tmp_path / "mine.csv"
    foreign.write_text("video,x\n")
    with pytest.raises(InputError, match=r"is not of `python -m vswin_jax.predict`"):
        answer(tiny_run, video, foreign)
    assert foreign.read_text() == "video,x\n"


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_answers_for_other_videos_are_kept(
    tiny_run: "Run", folder: Path, tmp_path: Path, suffix: str
) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    out = tmp_path / f"answers.{suffix}"
    first, second = folder / "grow", folder / "move_left"
    answer(tiny_run, first, out)
    before = read_answers(out)
    added = answer(tiny_run, second, out)
    assert (added.num_videos, added.earlier, added.others) == (1, 0, 1)
    assert read_answers(out)[-1:] == before
    again = answer(tiny_run, first, out)
    assert (again.num_videos, again.earlier, again.others) == (1, 1, 2)
    assert sorted(one.video for one in read_answers(out)) == sorted(
        str(path) for part in (first, second) for path in part.iterdir()
    )


def test_a_video_that_was_missing_or_bad_is_answered_when_it_is_there(
    tiny_run: "Run", folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "answers.csv"
    good, late, bad = (tmp_path / f"{name}.mp4" for name in ("good", "late", "bad"))
    video = next(folder.glob("grow/*.mp4"))
    shutil.copy(video, good)
    bad.write_bytes(b"torn")
    videos = [good, late, bad]
    first = predict_to_file(videos, tiny_run.workdir, out, processes=0)
    assert [one.video for one in first.unreadable] == [str(late), str(bad)]
    shutil.copy(video, late)
    shutil.copy(video, bad)
    second = predict_to_file(videos, tiny_run.workdir, out, processes=0)
    # The bad one has its reason until it is to be tried again.
    assert [one.video for one in second.unreadable] == [str(bad)]
    third = predict_to_file(videos, tiny_run.workdir, out, processes=0, retry_errors=True)
    assert (third.num_videos, third.earlier, third.unreadable) == (3, 2, ())
    assert [one.video for one in read_answers(out)] == list(map(str, videos))


def test_a_list_with_a_video_twice_has_two_rows(
    tiny_run: "Run", folder: Path, tmp_path: Path
) -> None:
    video = next(folder.glob("grow/*.mp4"))
    (tmp_path / "list.txt").write_text(f"{video} grow\n{video} shrink\n")
    out = tmp_path / "answers.jsonl"
    for earlier in (0, 2):
        answered = answer(tiny_run, tmp_path / "list.txt", out)
        assert (answered.num_videos, answered.earlier) == (2, earlier)
        assert [one.truth for one in read_answers(out)] == [("grow",), ("shrink",)]
    assert read_settings(out)["scores"] == dict(answered.scores)


def test_the_same_names_in_another_folder_are_other_videos(
    tiny_run: "Run", folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "answers.jsonl"
    answer(tiny_run, folder, out, kind="folder")
    shutil.copytree(folder, tmp_path / "other")
    with pytest.raises(InputError, match="other settings \\(videos in another folder\\)"):
        answer(tiny_run, tmp_path / "other", out, kind="folder")


class Killed(BaseException):
    """Ends a start where a signal would, with the files as they are."""


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize("place", ["between batches", "before the file", "after the file"])
def test_a_start_that_is_killed_anywhere_is_completed(
    tiny_run: "Run",
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    suffix: str,
    place: str,
) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    whole, out = tmp_path / f"whole.{suffix}", tmp_path / f"answers.{suffix}"
    options = {"batch_size": 3, "all_scores": False}
    answer(tiny_run, folder, whole, **options)
    answer(tiny_run, folder / "grow", out, **options)
    unlink, add, finish = Path.unlink, AnswerFile.add, AnswerFile.finish

    def killed(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        if place == "between batches":
            patched.setattr(AnswerFile, "add", lambda *given: (add(*given), killed()))
        elif place == "before the file":
            patched.setattr(AnswerFile, "finish", killed)
        else:

            def unlink_others(path: Path, **given: bool) -> None:
                return killed() if path.name.endswith(".part.jsonl") else unlink(path, **given)

            patched.setattr(Path, "unlink", unlink_others)
        with pytest.raises(Killed):
            answer(tiny_run, folder, out, **options)
    assert AnswerFile.finish is finish
    again = answer(tiny_run, folder, out, **options)
    assert again.earlier == {"between batches": 4, "before the file": 9, "after the file": 9}[place]
    assert (again.num_videos, again.others) == (8, 0)
    assert out.read_bytes() == whole.read_bytes()
    assert not out.with_name(f"{out.name}.part.jsonl").exists()


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_any_names_are_read_as_they_were_written(tmp_path: Path, suffix: str) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    names = ("a;b", "[c]", "twice", "twice", 'quo"te, and\nline')
    rows = [
        Answer("plain.mp4", ("a;b",), ("a;b",), (0.5,), (0.5, 0.125, 0.25, 0.125, 0.0)),
        Answer("two.mp4", ("[c]", "twice"), ("[c]",), (0.5,), (0.125, 0.5, 0.25, 0.125, 0.0)),
        Answer("none.mp4", (), names[-1:], (1.0,), (0.0, 0.0, 0.0, 0.0, 1.0)),
        Answer("unknown.mp4", None, ("twice",), (0.5,), (0.0, 0.0, 0.5, 0.5, 0.0)),
        Answer("line\nbreak.mp4", ("twice",), error="torn"),
    ]
    path = tmp_path / f"a.{suffix}"
    format_of(path).write(path, rows, names)
    assert read_answers(path) == rows


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_names_that_are_not_utf_8_are_found_again(suffix: str, tmp_path: Path) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    name = b"caf\xe9.mp4".decode(errors="surrogateescape")
    path = tmp_path / f"a.{suffix}"
    format_of(path).write(path, [Answer(name, error="torn"), Answer("b.mp4", error="torn")], ())
    earlier = EarlierAnswers(read_answers(path), retry_errors=False)
    assert [one.video for one in earlier.of_others([name])] == ["b.mp4"]
    assert earlier.take(name) is not None
    assert earlier.take(name) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["clip.mp4", "--out", "answers.txt"], "Unknown suffix of a file of answers '.txt'"),
        (["clip.mp4", "--scores", "all"], "--scores is about answers in a file: give one with"),
        (["clip.mp4", "--out", "a.csv", "--plot", "b.png"], "Expected one of --out and --plot"),
        (["no.mp4", "--out", "a.csv"], "There is no video file at 'no.mp4'"),
        (["a.mp4", "b.mp4", "--out", "a.csv", "--root", "c"], "Expected one list or data set"),
    ],
)
def test_wrong_arguments_get_one_sentence(
    tiny_run: "Run",
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run([*arguments, "--checkpoint", str(tiny_run.workdir)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert os.listdir(tmp_path) == []


def test_the_command_prints_a_line_with_the_score(
    tiny_run: "Run", folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "answers.csv"
    arguments = [str(folder), "--kind", "folder", "--checkpoint", str(tiny_run.workdir)]
    assert run([*arguments, "--out", str(out)]) == 1
    printed = capsys.readouterr()
    assert printed.out.startswith(f"{out}: answers for 8 videos; 1 cannot be read; top1 ")
    assert "0_torn.mp4' cannot be read as a video" in printed.err
    assert vswin_jax.predict_to_file is predict_to_file
