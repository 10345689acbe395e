"""Damaged files of each container give frames or one sentence, within limits of time and memory."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from coded_pictures import VIDEOS, write_pictures

ROOT = Path(__file__).parents[3]
LARGEST = 30_000  # bytes: a change in a small file more often hits what matters

WRITTEN = {
    "h264.mp4": ("libx264", {"g": "8", "bf": "2"}),
    "h264.avi": ("libx264", {"g": "8", "bf": "2"}),
    "h264.ts": ("libx264", {"g": "8", "bf": "2"}),
    "h264.flv": ("libx264", {"g": "8", "bf": "2"}),
    "h264.h264": ("libx264", {"g": "8", "bf": "2"}),
    "vp8.webm": ("libvpx", {"deadline": "realtime", "cpu-used": "8"}),
    "vp9.webm": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"}),
    "mpeg4.mkv": ("mpeg4", {"g": "8", "bf": "2"}),
    "mpeg2.mpg": ("mpeg2video", {"g": "8", "bf": "2"}),
    "mpeg2.mxf": ("mpeg2video", {"g": "8", "bf": "2"}),
    "wmv2.asf": ("wmv2", {"g": "8"}),
    "flv1.flv": ("flv", {"g": "8"}),
    "rv20.rm": ("rv20", {"g": "8"}),
    "mjpeg.mov": ("mjpeg", {"strict": "-1"}),
    "ffv1.nut": ("ffv1", {"g": "8"}),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of whole files, of all containers that PyAV writes and of users."""
    path = tmp_path_factory.mktemp("whole")
    for name, (codec, options) in WRITTEN.items():
        write_pictures(path / name, range(20), codec, **options)
    for file in VIDEOS.iterdir():
        if file.stat().st_size < LARGEST:
            shutil.copy(file, path)
    return path


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of Linux")
@pytest.mark.parametrize(
    ("first_seed", "count"), [(0, 100), pytest.param(1000, 5000, marks=pytest.mark.long)]
)
def test_damaged_files(first_seed: int, count: int, folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "fuzzed_videos.py", folder, str(first_seed), str(count)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    *seeds, outcomes = done.stdout.splitlines()
    assert done.returncode == 0, f"{done.returncode} at {outcomes!r}:\n{done.stderr[-2000:]}"
    assert len(seeds) == count
    counted = json.loads(outcomes)
    assert counted["videos"] > count // 4
    assert counted["errors"] > count // 10
    assert counted["megabytes"] < 500
