"""scripts/check_videos.py: its list of bad videos, its messages and its exit status."""

import csv
import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import av
import numpy as np
import pytest

from vswin_jax.data.pipeline.clip_processes import ClipProcesses
from vswin_jax.data.pipeline.process_limits import ProcessLimits
from vswin_jax.prepare.check_report import CheckReport
from vswin_jax.runtime import progress

SCRIPT = Path(__file__).parents[2] / "scripts" / "check_videos.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_videos", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _video(path: Path, frames: int = 3, **x264: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=12, options=x264)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for _ in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), "u1"))))
        container.mux(stream.encode())
    return path


def _damage(path: Path, frame: int) -> None:
    """Write a video of nine key frames and overwrite the packet of one of them."""
    with av.open(str(_video(path, 9, g="1", bf="0"))) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][frame]
        position, size = packet.pos, packet.size
    content = path.read_bytes()
    path.write_bytes(content[:position] + b"\xff" * size + content[position + size :])


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


def test_no_bad_videos(
    folder: Path, tmp_path: Path, script: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "found.csv"
    assert script.run([str(folder), "--output", str(output)]) == 0
    assert "0 of 4 videos" in capsys.readouterr().out
    assert output.read_text() == "path,reason,step,epoch\n"


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


@pytest.fixture
def pipe(folder: Path) -> Path:
    """Replace the second video by a pipe that nobody writes to: its decoder waits forever."""
    path = folder / "jump/b.mp4"
    path.unlink()
    if not hasattr(os, "mkfifo"):
        pytest.skip("the system has no named pipes")
    os.mkfifo(path)
    return path


def _check_with(
    pool: ClipProcesses, script: ModuleType, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> list[dict[str, str]]:
    """Check the folder with the only process of `pool`; return the rows of the list."""
    monkeypatch.setattr(script, "shared_processes", lambda _: pool)
    output = folder.parent / "found.csv"
    assert script.run([str(folder), "--output", str(output), "--processes", "1"]) == 1
    with output.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_decoder_that_hangs_costs_one_video(
    folder: Path, pipe: Path, script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = ClipProcesses(1, ProcessLimits(wall_seconds=1.0))
    (row,) = _check_with(pool, script, folder, monkeypatch)
    pool.close()
    assert (row["path"], row["step"], row["epoch"]) == ("jump/b.mp4", "", "")
    assert row["reason"].startswith("'jump/b.mp4' takes more than 1 seconds of time to read")


def test_a_process_that_dies_is_reported(
    folder: Path, pipe: Path, script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = ClipProcesses(1)
    checked = folder.parent / "found.csv.checked"

    def kill() -> None:
        """Kill the process that waits for the pipe, and the one that replaces it."""
        while not checked.exists() or len(checked.read_bytes().splitlines()) < 3:
            if checked.exists() and len(checked.read_bytes().splitlines()) == 2:
                os.kill(pool.pids[0], signal.SIGKILL)
            time.sleep(0.2)

    thread = threading.Thread(target=kill)
    thread.start()
    (row,) = _check_with(pool, script, folder, monkeypatch)
    thread.join()
    pool.close()
    assert (row["path"], row["step"]) == ("jump/b.mp4", "")
    assert row["reason"].startswith("'jump/b.mp4' crashes the process that reads it: take it off")


def test_an_interrupted_check_continues(folder: Path, pipe: Path, tmp_path: Path) -> None:
    (folder / "jump/a.mp4").write_bytes(b"torn")
    command = [sys.executable, SCRIPT, folder, "--processes", "1"]
    options = {"cwd": tmp_path, "env": {"PYTHONPATH": str(SCRIPT.parents[1])}, "text": True}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, **options
    )
    checked = tmp_path / "bad_videos.csv.checked"
    while not checked.exists() or checked.read_bytes().count(b"\n") < 2:
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    assert process.communicate() == ("", "interrupted: the same command continues the check\n")
    assert process.returncode == 130
    assert _listed_videos(tmp_path / "bad_videos.csv") == ["jump/a.mp4"]
    # A killed check may leave a part of a line.
    checked.write_bytes(checked.read_bytes() + b'["set", "ru')
    pipe.unlink()
    pipe.write_bytes(b"torn")
    result = subprocess.run(command, capture_output=True, **options)
    assert result.stdout == "2 of 4 videos cannot be read: see bad_videos.csv\n"
    assert result.stderr == "1 of 4 videos were checked before the interruption\n"
    assert _listed_videos(tmp_path / "bad_videos.csv") == ["jump/a.mp4", "jump/b.mp4"]
    assert not checked.exists()


def test_only_the_frames_of_a_config_count(
    folder: Path, tmp_path: Path, script: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    """Damage the last frame of a video: no clip of frames k, k+2, ... contains it."""
    _damage(folder / "jump/b.mp4", 8)
    output = f"--output={tmp_path / 'found.csv'}"
    assert script.run([str(folder), output, "--processes=1"]) == 1
    config = [
        f"--config={SCRIPT.parents[1] / 'experiments' / 'ssv2.py'}",
        f"--config.data.train={folder}",
        "--config.data.num_frames=4",
        "--config.model.num_classes=2",
        "--processes=1",
        output,
    ]
    assert script.run(config) == 1
    assert script.run([*config, "--config.data.sampling=dense"]) == 0
    assert capsys.readouterr().out.count("\n") == 3
    assert script.run([*config, "--quick"]) == 2
    assert script.run([str(folder), "--config.data.num_frames=4"]) == 2
    assert script.run([*config, "--config.data.frames=4"]) == 2
    assert capsys.readouterr().err.count("error: ") == 3


def test_a_changed_experiment_begins_a_new_check(
    folder: Path, tmp_path: Path, script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = []

    def report(output: Path, given: list[str]) -> CheckReport:
        settings.append(given)
        return CheckReport(output, given)

    monkeypatch.setattr(script, "CheckReport", report)
    experiment = tmp_path / "experiment.py"
    experiment.write_text((SCRIPT.parents[1] / "experiments" / "ssv2.py").read_text())
    arguments = [
        f"--config={experiment}",
        f"--config.data.train={folder}",
        "--config.model.num_classes=2",
        "--processes=1",
        f"--output={tmp_path / 'found.csv'}",
    ]
    script.run(arguments)
    script.run(arguments)
    text = experiment.read_text().replace("def get_config", "def get_published")
    experiment.write_text(
        f"{text}\ndef get_config(argument):\n    config = get_published(argument)\n"
        "    config.data.num_frames = 4\n    return config\n"
    )
    script.run(arguments)
    assert settings[0] == settings[1] != settings[2]


def test_quick_misses_damage_between_three_frames(
    folder: Path, tmp_path: Path, script: ModuleType
) -> None:
    _damage(folder / "run/b.mp4", 2)
    arguments = [str(folder), f"--output={tmp_path / 'found.csv'}", "--processes=1"]
    assert script.run([*arguments, "--quick"]) == 0
    assert script.run(arguments) == 1


def test_another_file_is_not_replaced(
    folder: Path, tmp_path: Path, script: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "train.csv").write_text("path,label\na.mp4,0\n")
    assert script.run([str(folder), "--output", str(tmp_path / "train.csv")]) == 2
    assert "train.csv' is another file: give another name" in capsys.readouterr().err
    assert (tmp_path / "train.csv").read_text() == "path,label\na.mp4,0\n"
