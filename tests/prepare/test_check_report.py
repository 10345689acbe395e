"""The report of a check: what an interrupted one leaves for the next one, and what it replaces."""

import csv
import os
import stat
from pathlib import Path

import numpy as np
import pytest

from vswin_jax.data.decoding.frames import EncodedFrames, FrameFolder
from vswin_jax.data.example import Example
from vswin_jax.errors import InputError
from vswin_jax.prepare.check_report import CheckReport, video_state


def _names(path: Path) -> list[str]:
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return [row["path"] for row in csv.DictReader(file)]


def test_results_of_an_interrupted_check(tmp_path: Path) -> None:
    output = tmp_path / "bad.csv"
    with CheckReport(output, ["a.txt"]) as report:
        report.add(("a.txt", "good"), [4, 1], "")
        report.add(("a.txt", "\udcff"), [3, 1], "it is torn")
    assert _names(output) == ["\udcff"]
    with CheckReport(output, ["a.txt"]) as report:
        assert report.earlier_reason(("a.txt", "good"), [4, 1]) == ""
        assert report.earlier_reason(("a.txt", "\udcff"), [3, 1]) == "it is torn"
        # Another size, another list, another video.
        assert report.earlier_reason(("a.txt", "good"), [5, 1]) is None
        assert report.earlier_reason(("b.txt", "good"), [4, 1]) is None
        assert report.earlier_reason(("a.txt", "new"), [4, 1]) is None
        report.add(("a.txt", "b"), [5, 1], "it is torn too")
        report.finish([("b", "it is torn too"), ("\udcff", "it is torn")])
    assert _names(output) == ["b", "\udcff"]
    assert os.listdir(tmp_path) == ["bad.csv"]


@pytest.mark.parametrize("content", [b"", b"\n", b"no JSON", b'["b.txt"]\n', b'["a.txt"]\n[1]\n'])
def test_other_results_are_not_used(tmp_path: Path, content: bytes) -> None:
    output = tmp_path / "bad.csv"
    output.write_text("path,reason,step,epoch\nold,it was torn,,\n")
    (tmp_path / "bad.csv.checked").write_bytes(content)
    with CheckReport(output, ["a.txt"]) as report:
        assert report.earlier_reason(("a.txt", "good"), [4, 1]) is None
        assert not output.exists()
        report.finish([])
    assert _names(output) == []


def test_a_file_that_is_no_list_of_bad_videos_stays(tmp_path: Path) -> None:
    path = tmp_path / "train.txt"
    path.write_text("a.mp4 0\n")
    with pytest.raises(InputError, match=r"train\.txt' is another file: give another name"):
        CheckReport(path, [])
    assert path.read_text() == "a.mp4 0\n"


def test_a_video_that_was_replaced_has_another_state(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"

    def state(video: str | bytes | FrameFolder | EncodedFrames) -> object:
        return video_state(Example(video, 0, 0, "a"))

    missing = state(str(path))
    path.write_bytes(b"torn")
    torn = state(str(path))
    path.write_bytes(b"good")
    os.utime(path, ns=(1, 1))
    states = [missing, torn, state(str(path)), state(b"abc"), state(b"abcd")]
    states += [state(FrameFolder(str(tmp_path), count)) for count in (0, 5)]
    states += [state(EncodedFrames(images, np.zeros(1))) for images in ([b"a"], [b"a", b"b"])]
    assert len(set(map(str, states))) == len(states)


def test_a_device_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    """A named pipe stands for /dev/null, which root could remove."""
    output = tmp_path / "pipe"
    os.mkfifo(output)
    reader = os.open(output, os.O_RDONLY | os.O_NONBLOCK)
    with CheckReport(output, ["a.txt"]) as report:
        assert report.earlier_reason(("a.txt", "b"), [1, 1]) is None
        report.add(("a.txt", "b"), [1, 1], "it is torn")
        report.finish([("b", "it is torn")])
    assert os.read(reader, 1000) == b"path,reason,step,epoch\nb,it is torn,,\n"
    os.close(reader)
    assert os.listdir(tmp_path) == ["pipe"]
    assert stat.S_ISFIFO(output.stat().st_mode)
