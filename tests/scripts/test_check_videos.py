"""scripts/check_videos.py: its list of bad videos, its messages and its exit status."""

import csv
import importlib.util
import subprocess
import sys
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest

from vswin_jax.runtime import progress, worker_pool

SCRIPT = Path(__file__).parents[2] / "scripts" / "check_videos.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_videos", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _video(path: Path, frames: int = 3) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=12)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for _ in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), "u1"))))
        container.mux(stream.encode())
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write four good videos of two classes."""
    for name in ("jump/a", "jump/b", "run/a", "run/b"):
        _video(tmp_path / "videos" / f"{name}.mp4")
    return tmp_path / "videos"


def _listed_videos(path: Path) -> list[str]:
    with path.open(newline="") as file:
        return [row["path"] for row in csv.DictReader(file)]


def test_as_a_process_with_several_processes(folder: Path, tmp_path: Path) -> None:
    (folder / "run/b.mp4").write_bytes(b"torn")
    result = subprocess.run(
        [sys.executable, SCRIPT, folder, "--processes", "2"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(SCRIPT.parents[1])},
    )
    assert (result.returncode, result.stderr) == (1, "")
    assert result.stdout == "1 of 4 videos cannot be read: see bad_videos.csv\n"
    assert _listed_videos(tmp_path / "bad_videos.csv") == ["run/b.mp4"]


@pytest.mark.usefixtures("at_once")
def test_no_bad_videos(
    folder: Path, tmp_path: Path, script: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "found.csv"
    assert script.run([str(folder), "--output", str(output)]) == 0
    assert "0 of 4 videos" in capsys.readouterr().out
    assert output.read_text() == "path,reason,step,epoch\n"


@pytest.mark.usefixtures("at_once")
def test_several_lists_with_a_root(
    folder: Path, tmp_path: Path, script: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "jump/b.mp4").write_bytes(b"torn")
    (folder / "run/a.mp4").unlink()
    (tmp_path / "one.txt").write_text("jump/a.mp4 0\njump/b.mp4 0\n")
    (tmp_path / "two.txt").write_text("run/a.mp4 1\njump/b.mp4 0\n")
    output = tmp_path / "found.csv"
    lists = [str(tmp_path / name) for name in ("one.txt", "two.txt")]
    assert script.run([*lists, "--root", str(folder), "--output", str(output)]) == 1
    assert "2 of 4 videos" in capsys.readouterr().out
    assert _listed_videos(output) == ["jump/b.mp4", "run/a.mp4"]


@pytest.mark.usefixtures("at_once")
def test_progress_lines_have_rate_and_time_left(
    folder: Path,
    tmp_path: Path,
    script: ModuleType,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for path in folder.glob("*/*.mp4"):
        path.write_bytes(b"torn")
    clock = iter(range(0, 1000, 2))  # each reading is two seconds after the last
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    assert script.run([str(folder), "--output", str(tmp_path / "found.csv")]) == 1
    # The third of four videos is done after six seconds, more than the five between two lines.
    assert capsys.readouterr().err == "3 of 4 videos, 3 bad, 0.5 videos/s, 2 s left\n"


@pytest.mark.usefixtures("at_once")
def test_wrong_inputs(
    folder: Path, tmp_path: Path, script: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, message in (
        ([str(tmp_path / "nowhere")], "nowhere"),
        ([str(folder), "--output", str(tmp_path / "no" / "bad.csv")], "--output"),
        ([str(folder), "--output", str(tmp_path)], "--output"),
        ([str(folder), "--format", "csv"], "'csv'"),
    ):
        assert script.run(arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert message in error
        assert error.count("\n") == 1
    for arguments in ([], [str(folder), "--processes", "0"]):
        with pytest.raises(SystemExit) as caught:
            script.run(arguments)
        assert caught.value.code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["videos"]


def test_a_process_that_dies_is_reported(
    at_once: type,
    folder: Path,
    tmp_path: Path,
    script: ModuleType,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class DyingExecutor(at_once):
        def submit(self, function: Any, *arguments: object) -> Future:
            future: Future = Future()
            future.set_exception(BrokenProcessPool())
            return future

    monkeypatch.setattr(worker_pool, "ProcessPoolExecutor", DyingExecutor)
    arguments = [str(folder), "--processes", "2", "--output", str(tmp_path / "found.csv")]
    assert script.run(arguments) == 2
    assert "one of 'jump/a.mp4', 'jump/b.mp4': remove the one" in capsys.readouterr().err
    assert not (tmp_path / "found.csv").exists()
