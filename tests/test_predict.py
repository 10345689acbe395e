import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import vswin_jax
from vswin_jax import predict as room
from vswin_jax.errors import InputError
from vswin_jax.predict import predict, run

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
