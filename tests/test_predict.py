import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

import vswin_jax
from vswin_jax import predict as room
from vswin_jax.data import open_video
from vswin_jax.errors import InputError
from vswin_jax.predict import UnreadableVideo, predict, predict_each, run

if TYPE_CHECKING:
    from conftest import Run


@pytest.fixture(scope="module")
def videos(tiny_run: "Run") -> list[Path]:
    return sorted((tiny_run.workdir / "moving_shapes" / "test").glob("*/*.mp4"))


def test_agrees_with_the_evaluation(tiny_run: "Run", videos: list[Path]) -> None:
    lines = (tiny_run.workdir / "evaluation" / "predictions.csv").read_text().splitlines()[1:]
    found = predict(videos, tiny_run.workdir / "checkpoints" / "40")
    assert len(found) == len(lines) == 8
    for line, prediction in zip(lines, found, strict=True):
        name, _, predicted, _, *pairs = line.split(",")
        assert prediction.video.endswith(name)
        assert prediction.label == predicted
        assert prediction.labels == tuple(pairs[0::2])
        np.testing.assert_allclose(
            prediction.probabilities, [float(p) for p in pairs[1::2]], atol=2e-6
        )


def test_module_is_a_function_too(tiny_run: "Run", videos: list[Path]) -> None:
    (prediction,) = vswin_jax.predict(videos[0], tiny_run.workdir, topk=20)
    assert vswin_jax.predict is room
    assert len(prediction.labels) == 8
    assert sum(prediction.probabilities) == pytest.approx(1, abs=1e-5)
    assert prediction.frames.shape == (4, 16, 16, 3)


def test_other_views(tiny_run: "Run", videos: list[Path]) -> None:
    few, many = (predict(videos[0], tiny_run.workdir, views=v)[0] for v in ((1, 1), (2, 3)))
    assert few.probabilities != many.probabilities
    with pytest.raises(InputError, match="crops"):
        predict(videos[0], tiny_run.workdir, views=(1, 2))


def test_command_line(
    tiny_run: "Run", videos: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "out.png"
    checkpoint = f"--checkpoint={tiny_run.workdir}"
    assert run([str(videos[0]), str(videos[5]), checkpoint, "--topk=2", f"--plot={picture}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [lines[0], lines[3]] == [str(videos[0]), str(videos[5])]
    assert len(lines) == 6
    assert "%" in lines[1]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_wrong_inputs(
    tiny_run: "Run", videos: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty").mkdir()
    good, here = str(videos[0]), f"--checkpoint={tiny_run.workdir}"
    for arguments, words in (
        ([str(tmp_path / "nothing.mp4"), here], "nothing.mp4"),
        ([str(tmp_path / "text.mp4"), here], "text.mp4"),
        ([good, f"--checkpoint={tmp_path / 'nowhere'}"], "nowhere"),
        ([good, f"--checkpoint={tmp_path / 'empty'}"], "No checkpoint"),
        ([good, here, "--topk=0"], "topk"),
    ):
        assert run(arguments) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("error: ")
        assert captured.err.count("\n") == 1
        assert words in captured.err
    with pytest.raises(SystemExit) as caught:
        run([good, here, "--views=many"])
    assert caught.value.code == 2


def test_bad_videos_do_not_take_the_good_ones(
    tiny_run: "Run", videos: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torn, missing = tmp_path / "torn.mp4", tmp_path / "missing.mp4"
    torn.write_text("no video")
    paths = list(map(str, (videos[0], torn, videos[5], missing, videos[0])))
    picture, checkpoint = tmp_path / "out.png", str(tiny_run.workdir)
    arguments = ["--topk=1", "--checkpoint", checkpoint, "--plot", str(picture)]
    assert run([*paths, *arguments]) == 1
    captured = capsys.readouterr()
    assert captured.out.splitlines()[::2] == [paths[0], paths[2], paths[0]]
    note, reasons = _split_note(captured.err)
    assert note.startswith(f"the checkpoint of step 40 in '{tiny_run.workdir / 'checkpoints'}' (")
    assert [line.split("'")[1] for line in reasons[:2]] == [str(missing), str(torn)]
    assert all(line.startswith("error: ") for line in reasons)
    assert reasons[2:] == ["error: 2 of 5 videos have no prediction"]
    assert picture.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InputError, match=r"torn\.mp4' cannot be read"):
        predict([videos[0], torn], checkpoint)


def _split_note(err: str) -> tuple[str, list[str]]:
    """Return the line about the checkpoint, and all others."""
    lines = err.splitlines()
    (note,) = (line for line in lines if not line.startswith("error: "))
    return note, [line for line in lines if line != note]


def test_only_bad_videos(
    tiny_run: "Run", tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "torn.mp4").write_text("no video")
    paths = [str(tmp_path / name) for name in ("torn.mp4", "missing.mp4")]
    picture = tmp_path / "out.png"
    assert run([*paths, f"--checkpoint={tiny_run.workdir}", f"--plot={picture}"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.endswith("error: 2 of 2 videos have no prediction\n")
    assert not picture.exists()


def test_each_result_comes_before_the_next_video_is_predicted(
    tiny_run: "Run", videos: list[Path], tmp_path: Path
) -> None:
    """Only one video is read ahead: the third one is still whole when it has been replaced."""
    paths = [tmp_path / f"{index}.mp4" for index in range(3)]
    for path in paths:
        path.write_bytes(b"torn")
    results = predict_each([tmp_path / "missing.mp4", *paths], tiny_run.workdir)
    missing, first = next(results), next(results)
    paths[2].write_bytes(videos[0].read_bytes())
    second, third = results
    assert [missing.video, first.video, second.video] == [
        str(tmp_path / "missing.mp4"),
        *map(str, paths[:2]),
    ]
    assert all(isinstance(bad, UnreadableVideo) for bad in (missing, first, second))
    assert third == replace(predict(videos[0], tiny_run.workdir)[0], video=str(paths[2]))


def test_folders(tiny_run: "Run", videos: list[Path], tmp_path: Path) -> None:
    """Read the frames of a video from images, and all videos of a folder of classes."""
    folder = tmp_path / "frames"
    folder.mkdir()
    with open_video(str(videos[0])) as video:
        for number, frame in enumerate(video.frames(), 1):
            cv2.imwrite(str(folder / f"img_{number:05d}.png"), frame[..., ::-1])
    classes = tiny_run.workdir / "moving_shapes" / "test"
    found = predict([folder, classes], tiny_run.workdir)
    assert [Path(prediction.video) for prediction in found] == [folder, *videos]
    assert replace(found[0], video=found[1].video) == found[1]


def test_a_picture_that_cannot_be_written_is_refused_at_once(
    tiny_run: "Run", videos: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for picture in (tmp_path / "no" / "out.png", tmp_path):
        arguments = [str(videos[0]), f"--checkpoint={tiny_run.workdir}", f"--plot={picture}"]
        assert run(arguments) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("error: Expected --plot to be a file that can be written")


@pytest.mark.long
def test_ctrl_c_leaves_what_is_printed(tiny_run: "Run", videos: list[Path]) -> None:
    command = [sys.executable, "-m", "vswin_jax.predict", "--checkpoint", tiny_run.workdir]
    process = subprocess.Popen(
        [*command, "--topk=1", *videos, *videos],
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout
    assert process.stdout.readline() == f"{videos[0]}\n"
    os.killpg(process.pid, signal.SIGINT)
    note, errors = _split_note(process.communicate()[1])
    assert note.startswith("the checkpoint of step 40 in ")
    assert errors == []
    assert process.returncode == -signal.SIGINT


def test_needs_no_tensorflow(tiny_run: "Run", videos: list[Path]) -> None:
    code = (
        "import sys; sys.modules['tensorflow'] = sys.modules['clu'] = None\n"
        "import vswin_jax\n"
        f"print(vswin_jax.predict({str(videos[0])!r}, {str(tiny_run.workdir)!r})[0].label)"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in {video.parent.name for video in videos}


def test_swapped_arguments_get_a_sentence(tiny_run: "Run") -> None:
    with pytest.raises(InputError, match="Expected the checkpoint as a path or a name but a list"):
        vswin_jax.predict(tiny_run.workdir, ["clip.mp4"])
