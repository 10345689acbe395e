"""The command `timeline`: what it prints, its exit status, wrong arguments."""

from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np
import pytest
from drawn_videos import write_broken

import vswin_jax
from vswin_jax.inference import timelines
from vswin_jax.runtime.clock_time import clock_time
from vswin_jax.timeline import run

if TYPE_CHECKING:
    from conftest import Run


def write_still(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=12)
        stream.width, stream.height = 32, 32
        for _ in range(24):
            grey = np.full((32, 32, 3), 128, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        container.mux(stream.encode())
    return path


def test_segments_are_printed_and_the_exit_status_tells_damage(
    tiny_run: "Run", tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = f"--checkpoint={tiny_run.workdir}"
    video = str(write_still(tmp_path / "a.mp4"))
    # A still picture has one class all the time.
    assert run([video, checkpoint, "--threshold=0.125", "--crops=1"]) == 0
    first = capsys.readouterr().out.splitlines()[0].split()
    assert first[:2] == ["0:00", "0:02"]
    assert first[3] in vswin_jax.load(tiny_run.workdir).label_names
    assert run([video, checkpoint, "--threshold=0.99"]) == 0
    assert "lower it with --threshold" in capsys.readouterr().err
    write_broken(tmp_path / "b.mov", count=48, first=26)
    assert run([str(tmp_path / "b.mov"), checkpoint]) == 1
    assert "b.mov' cannot be read as a video" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Expected either a VIDEO or --live SOURCE: give one of them."),
        (["a.mp4", "--live=b"], "Expected either a VIDEO or --live SOURCE: give one of them."),
        (["--live=b", "--out=c"], "--out is about a file, and not for --live: leave it away."),
        (["none.mp4"], "There is no video file at 'none.mp4': correct the path."),
        (["--live=none.ts"], "The live source 'none.ts' cannot be opened"),
    ],
)
def test_wrong_arguments_are_one_sentence(
    tiny_run: "Run", arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*arguments, f"--checkpoint={tiny_run.workdir}"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_the_module_is_the_function() -> None:
    assert vswin_jax.timeline.Timeline is timelines.Timeline
    assert [clock_time(t) for t in (0, 3.46, 62, 3723.04)] == ["0:00", "0:03.5", "1:02", "1:02:03"]
