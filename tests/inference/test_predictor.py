"""A reusable predictor, and the one that `predict` keeps between its calls."""

import os
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import vswin_jax
from vswin_jax.checkpoint import steps_in
from vswin_jax.errors import InputError
from vswin_jax.inference import Predictor, UnreadableVideo, clips_ahead, forget_predictor
from vswin_jax.inference import kept_predictor as kept
from vswin_jax.predict import predict, run
from vswin_jax.runtime.compilation import Compilations

if TYPE_CHECKING:
    from conftest import Run


@pytest.fixture(scope="module")
def videos(tiny_run: "Run") -> list[Path]:
    return sorted((tiny_run.workdir / "moving_shapes" / "test").glob("*/*.mp4"))


@pytest.fixture(scope="module")
def predictor(tiny_run: "Run") -> Predictor:
    return vswin_jax.Predictor(tiny_run.workdir)


def kept_now() -> Predictor | None:
    return kept._kept.predictor if kept._kept else None


def copy_run(run: "Run", folder: Path) -> Path:
    shutil.copytree(run.workdir / "checkpoints", folder / "run" / "checkpoints")
    return folder / "run"


def test_agrees_with_the_function_and_compiles_nothing_after_its_start(
    predictor: Predictor, tiny_run: "Run", videos: list[Path]
) -> None:
    expected = predict(videos, tiny_run.workdir)
    with Compilations() as compilations:
        assert predictor(videos) == predictor.predict(videos) == expected
        assert list(predictor.predict_each(videos)) == expected
        assert predictor(videos[0])[0] == expected[0]
    assert compilations.fresh == compilations.cached == []
    assert predictor(videos[0], topk=2)[0].labels == expected[0].labels[:2]


def test_threads_share_it(predictor: Predictor, videos: list[Path]) -> None:
    expected = predictor(videos)
    results: dict[int, Sequence[object]] = {}

    def work(number: int) -> None:
        results[number] = predictor(videos[number:])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {number: expected[number:] for number in range(4)}


def test_bad_videos(predictor: Predictor, videos: list[Path], tmp_path: Path) -> None:
    (tmp_path / "torn.mp4").write_text("no video")
    paths = [videos[0], tmp_path / "torn.mp4", tmp_path / "missing.mp4"]
    missing, good, torn = predictor.predict_each(paths)
    assert [type(bad) for bad in (missing, torn)] == [UnreadableVideo] * 2
    assert good == predictor(videos[0])[0]
    with pytest.raises(InputError, match=r"missing\.mp4"):
        predictor(paths)
    with pytest.raises(InputError, match="topk"):
        predictor(videos[0], topk=0)


def test_says_what_it_is(tiny_run: "Run", predictor: Predictor) -> None:
    assert repr(predictor) == (
        f"Predictor({str(tiny_run.workdir)!r}, step=40, classes=8, clip='4x16x16', "
        f"dtype='float32', views='1x1')"
    )
    for views, words in (
        ((1, 2), "number of crops in views must be 1, 3 or 5 but is 2"),
        ((0, 1), "number of clips in views must be at least 1 but is 0"),
        ((4,), r"Expected views as \(clips, crops\)"),
    ):
        with pytest.raises(InputError, match=words):
            Predictor(tiny_run.workdir, views=views)


def test_a_second_call_of_the_function_loads_and_compiles_nothing(
    tiny_run: "Run", videos: list[Path]
) -> None:
    forget_predictor()
    predict(videos[0], tiny_run.workdir)
    first, (process,) = kept_now(), clips_ahead._waiting
    with Compilations() as compilations:
        predict(videos[1], str(tiny_run.workdir))
        predict(videos[1], tiny_run.workdir, topk=2)
    assert compilations.fresh == compilations.cached == []
    assert kept_now() is first
    assert clips_ahead._waiting == [process]
    predict(videos[0], tiny_run.workdir, views=(2, 1))
    assert kept_now() is not first
    forget_predictor()
    assert kept_now() is None


def test_a_checkpoint_that_has_changed_is_loaded_again(
    tiny_run: "Run", videos: list[Path], tmp_path: Path
) -> None:
    workdir = copy_run(tiny_run, tmp_path)
    older, newest = sorted(steps_in(workdir / "checkpoints"))[-2:]
    shutil.move(workdir / "checkpoints" / str(newest), tmp_path / "aside")
    (before,) = predict(videos[0], workdir)
    first = kept_now()
    # Another file beside it changes the folder, and not the step.
    (workdir / "checkpoints" / "note.txt").write_text("")
    assert predict(videos[0], workdir) == [before]
    assert kept_now() is first
    shutil.move(tmp_path / "aside", workdir / "checkpoints" / str(newest))
    (after,) = predict(videos[0], workdir)
    assert kept_now().model.step == newest
    assert after == predict(videos[0], tiny_run.workdir / "checkpoints" / str(newest))[0]
    assert before == predict(videos[0], workdir / "checkpoints" / str(older))[0]
    assert before != after


def test_a_run_stands_for_its_latest_checkpoint_and_the_best_on_request(
    tiny_run: "Run", videos: list[Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    workdir = copy_run(tiny_run, tmp_path)
    older, newest = sorted(steps_in(workdir / "checkpoints"))[-2:]
    for step, score in ((older, 0.9), (newest, 0.1)):
        folder = workdir / "checkpoints" / str(step)
        (folder / "manifest.json").unlink()
        metadata = folder / "metadata" / "metadata"
        metadata.write_text(metadata.read_text().replace('"has_manifest": true', '"old": true'))
        (folder / "metrics").mkdir(exist_ok=True)
        (folder / "metrics" / "metrics").write_text(f'{{"score": {score}}}')
    assert Predictor(workdir).model.step == newest
    assert Predictor(workdir, which="best").model.step == older
    for arguments, step, other in (([], newest, older), (["--which=best"], older, newest)):
        assert run([str(videos[0]), f"--checkpoint={workdir}", *arguments]) == 0
        (note,) = capfd.readouterr().err.splitlines()
        assert note.startswith(f"the checkpoint of step {step} in ")
        assert f"is step {other}" in note


@pytest.mark.long
def test_programs_are_kept_in_a_private_directory_if_there_is_one(
    tiny_run: "Run",
    videos: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    no_compilation_cache: None,
) -> None:
    (tmp_path / "a_file").write_text("")
    monkeypatch.setenv("VSWIN_CACHE", os.fspath(tmp_path / "a_file" / "cache"))
    predicted = predict(videos[0], tiny_run.workdir, views=(1, 1))
    monkeypatch.setenv("VSWIN_CACHE", os.fspath(tmp_path / "cache"))
    forget_predictor()
    assert predict(videos[0], tiny_run.workdir, views=(1, 1)) == predicted
    (programs,) = (tmp_path / "cache" / "compiled").iterdir()
    assert any("eval_step" in file.name for file in programs.iterdir())
    forget_predictor()
    with Compilations() as compilations:
        assert predict(videos[0], tiny_run.workdir, views=(1, 1)) == predicted
    assert compilations.fresh == []
    # Somebody else could have left programs in a directory that everybody can write to.
    (tmp_path / "cache" / "compiled").chmod(0o777)
    forget_predictor()
    with Compilations() as compilations:
        predict(videos[0], tiny_run.workdir, views=(1, 1))
    assert compilations.cached == []
