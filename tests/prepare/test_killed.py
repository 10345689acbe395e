"""A preparation that is killed and continued gives the same output as an uninterrupted one."""

import csv
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vswin_jax.data.moving_shapes.moving_shapes import write_moving_shapes

from .conftest import SCRIPT, content_of

VIDEOS = 200
# Reads the records with TFDS and PyAV alone; `vswin_jax` cannot be imported.
READER = """
import hashlib, io, json, sys
sys.modules["vswin_jax"] = None
import av
import tensorflow_datasets as tfds

builder = tfds.builder_from_directory(sys.argv[1])
names = builder.info.features["label"].names
for split in builder.info.splits:
    for example in builder.as_data_source(split):
        with av.open(io.BytesIO(example["video"])) as container:
            frames = list(container.decode(video=0))
        assert example["num_frames"] == len(frames)
        assert {(frame.width, frame.height) for frame in frames} == {
            (example["width"], example["height"])
        }
        row = {
            "name": example["name"].decode(),
            "split": split,
            "label": names[example["label"]],
            "frames": str(len(frames)),
            "fps": format(example["fps"], "g"),
            "width": str(example["width"]),
            "height": str(example["height"]),
            "bytes": str(len(example["video"])),
            "sha256": hashlib.sha256(example["video"]).hexdigest(),
        }
        print(json.dumps(row))
"""


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("shapes") / "videos"
    write_moving_shapes(directory, train_scenes=21, test_scenes=4, size=32, num_frames=6)
    return directory


def _command(videos: Path, out: Path) -> list[str]:
    splits = ["--split", f"train={videos / 'train'}", "--split", f"val={videos / 'test'}"]
    command = [sys.executable, str(SCRIPT), "--out", str(out), *splits]
    return [*command, "--videos-per-shard", "20", "--processes", "2"]


def _start(videos: Path, out: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        _command(videos, out),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": str(SCRIPT.parents[1])},
    )


def _done(out: Path) -> int:
    """Count the videos that are done; folders of finished shards may be removed meanwhile."""
    rows = [Path(at, name) for at, _, names in os.walk(out / "work") for name in names]
    rows = [path for path in rows if path.suffix == ".json"]
    shards = {path.stem: path for path in rows if path.parent.name == "work"}
    whole = sum(len(json.loads(path.read_text())) for path in shards.values())
    return whole + sum(path.parent.name not in {"work", *shards} for path in rows)


def _kill_when(process: subprocess.Popen[str], out: Path, done: int) -> int:
    while _done(out) < done:
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    process.kill()
    _, error = process.communicate()
    assert process.returncode == -9, error
    time.sleep(0.5)  # until its worker processes have ended
    return _done(out)


def _times(out: Path) -> dict[str, tuple[int, int]]:
    """Return the modification time and the inode of each shard and each record."""
    paths = [*out.glob("videos-*"), *out.glob("work/*/*.record")]
    return {str(p.relative_to(out)): (p.stat().st_mtime_ns, p.stat().st_ino) for p in paths}


def _rows(out: Path) -> list[dict[str, Any]]:
    with (out / "manifest.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.long
def test_a_run_that_was_killed_twice_gives_the_same_output(videos: Path, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    uninterrupted = _start(videos, whole)
    printed, error = uninterrupted.communicate()
    assert (uninterrupted.returncode, printed) == (0, f"{VIDEOS} videos are in {whole}\n"), error

    first = _kill_when(_start(videos, out), out, 30)
    assert 30 <= first < 150
    before = _times(out)
    assert any(name.startswith("videos-") for name in before)
    second = _kill_when(_start(videos, out), out, first + 25)
    assert first + 25 <= second < VIDEOS
    last = _start(videos, out)
    printed, error = last.communicate()
    assert (last.returncode, printed) == (0, f"{VIDEOS} videos are in {out}\n"), error
    assert f"{second} of {VIDEOS} videos are done from before" in error

    # Finished videos were not prepared again, and the output is the same to the last byte.
    after = _times(out)
    for name, written in before.items():
        assert name not in after or after[name] == written, name
    assert content_of(out) == content_of(whole)
    assert sorted(path.name for path in out.iterdir() if not path.name.startswith("videos-")) == [
        *("bad_videos.csv", "dataset_info.json", "features.json", "label.labels.txt"),
        *("label_names.txt", "labels-train.npy", "labels-val.npy", "manifest.csv", "prepare.json"),
    ]
    _check_with_plain_tfds(out)


def _check_with_plain_tfds(out: Path) -> None:
    read = subprocess.run(
        [sys.executable, "-c", READER, str(out)], capture_output=True, text=True, cwd=out
    )
    assert read.returncode == 0, read.stderr
    found = [json.loads(line) for line in read.stdout.splitlines()]
    expected = _rows(out)
    for row in expected:
        row.pop("file")
    assert len(expected) == VIDEOS
    assert found == expected


@pytest.mark.long
def test_a_run_stopped_between_its_last_files_can_be_continued(
    videos: Path, tmp_path: Path, run: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stops before the plan, and before each file after the videos, is renamed to its name."""
    whole, out = tmp_path / "whole", tmp_path / "out"
    command = ("--split", f"train={videos / 'test'}", "--videos-per-shard", 8)
    names = _record_renames(monkeypatch, stop_at=None)
    assert run("--out", whole, *command) == 0
    last = names.index("videos-train.array_record-00003-of-00004")
    assert (names[0], names[-1]) == ("prepare.json", "dataset_info.json")
    for number in (0, *range(last, len(names))):
        _record_renames(monkeypatch, stop_at=number)
        assert run("--out", out, *command) == 130
        assert not (out / "dataset_info.json").exists()
        _record_renames(monkeypatch, stop_at=None)
        assert run("--out", out, *command) == 0
        assert content_of(out) == content_of(whole)
        shutil.rmtree(out)


_replace = os.replace


def _record_renames(monkeypatch: pytest.MonkeyPatch, stop_at: int | None) -> list[str]:
    """Record the names to which files are renamed; the one at `stop_at` is interrupted."""
    names: list[str] = []

    def replace(source: Path, target: Path) -> None:
        names.append(Path(target).name)
        if len(names) - 1 == stop_at:
            raise KeyboardInterrupt
        _replace(source, target)

    monkeypatch.setattr(os, "replace", replace)
    return names
