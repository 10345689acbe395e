"""scripts/prepare_dataset.py: its outputs, the handling of bad videos, and its exit status."""

import csv
import fcntl
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest

from vswin_jax.data import ClipSpec, FrameFolder, open_source, open_video
from vswin_jax.data.pipeline.pipeline import train_batches
from vswin_jax.prepare import work

from .conftest import SCRIPT, content_of

WriteVideo = Callable[..., Path]
Run = Callable[..., int]
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def folder(write_video: WriteVideo, tmp_path: Path) -> Path:
    """Write eleven videos of two classes, whose names contain characters unfit for file names."""
    for number in range(11):
        name = f"videos/{('run, walk', 'jump high')[number % 2]}/clip {number}.mp4"
        write_video(name, count=4 + number % 3, shift=20 * number)
    return tmp_path / "videos"


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_records(folder: Path, tmp_path: Path, run: Run, capsys: Capture) -> None:
    out = tmp_path / "out"
    assert run("--out", out, "--split", f"train={folder}", "--videos-per-shard", 4) == 0
    assert capsys.readouterr().out == f"11 videos are in {out}\n"
    source, before = open_source(f"{out}:train"), open_source(folder)
    assert source.label_names == before.label_names == ("jump high", "run, walk")
    originals = {before[i].name: before[i] for i in range(11)}
    manifest = _rows(out / "manifest.csv")
    shards = [f"videos-train.array_record-{k:05}-of-00003" for k in (0, 1, 2)]
    assert [row["file"] for row in manifest] == [*shards[:1] * 3, *shards[1:2] * 4, *shards[2:] * 4]
    assert sorted(row["name"] for row in manifest) == sorted(originals)
    for index, row in enumerate(manifest):
        example, original = source[index], originals[row["name"]]
        assert (example.name, example.label) == (original.name, original.label)
        assert (row["split"], row["label"]) == ("train", before.label_names[original.label])
        assert hashlib.sha256(example.video).hexdigest() == row["sha256"]
        with open_video(example.video) as video, open_video(original.video) as reference:
            assert video.num_frames == reference.num_frames == int(row["frames"])
            difference = video.decode([0, 3]).astype(int) - reference.decode([0, 3])
        assert np.abs(difference).mean() < 4
        numbers = (row["fps"], row["width"], row["height"], int(row["bytes"]))
        assert numbers == ("12", "64", "48", len(example.video))
    assert source.labels.tolist() == [source[index].label for index in range(11)]
    assert _rows(out / "bad_videos.csv") == []
    assert (out / "label_names.txt").read_text() == "jump high\nrun, walk\n"
    assert not (out / "work").exists()


def test_batches_of_records_equal_those_of_the_files(
    folder: Path, tmp_path: Path, run: Run
) -> None:
    out = tmp_path / "out"
    assert run("--out", out, "--split", f"train={folder}", "--no-reencode") == 0
    rows = _rows(out / "manifest.csv")
    (tmp_path / "list.csv").write_text(
        "path,label\n" + "".join(f'"{row["name"]}","{row["label"]}"\n' for row in rows)
    )
    sources = open_source(f"{out}:train"), open_source(tmp_path / "list.csv", root=folder)
    spec = ClipSpec(num_frames=4, frame_interval=1, resize=36, size=32)
    batches = [train_batches(source, spec, batch_size=3, seed=5) for source in sources]
    for _ in range(5):
        from_records, from_files = (next(each) for each in batches)
        assert from_records.keys() == from_files.keys()
        for key in from_records:
            np.testing.assert_array_equal(from_records[key], from_files[key], err_msg=key)


def test_records_can_be_prepared_again(folder: Path, tmp_path: Path, run: Run) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    splits = ("--split", f"train={first}:train[:8]", "--split", f"val={first}:train[8:]")
    assert run("--out", first, "--split", f"train={folder}") == 0
    assert run("--out", second, *splits, "--short-side", 32) == 0
    names = [{row["name"] for row in _rows(out / "manifest.csv")} for out in (first, second)]
    assert names[0] == names[1]
    assert {row["height"] for row in _rows(second / "manifest.csv")} == {"32"}
    assert [len(open_source(f"{second}:{split}")) for split in ("train", "val")] == [8, 3]


def test_records_of_jpeg_images(folder: Path, tmp_path: Path, run: Run) -> None:
    out = tmp_path / "out"
    assert run("--out", out, "--split", f"train={folder}", "--store", "jpeg") == 0
    source = open_source(f"{out}:train")
    row = _rows(out / "manifest.csv")[2]
    assert hashlib.sha256(b"".join(source[2].video.images)).hexdigest() == row["sha256"]
    with open_video(source[2].video) as video, open_video(folder / row["name"]) as reference:
        assert video.num_frames == reference.num_frames
        np.testing.assert_allclose(video.times, reference.times, atol=1e-6)
        assert np.abs(video.decode([1]).astype(int) - reference.decode([1])).mean() < 10


def test_videos_and_lists(folder: Path, tmp_path: Path, run: Run) -> None:
    out = tmp_path / "out"
    (tmp_path / "val.csv").write_text('path,label\n"jump high/clip 3.mp4",jump high\n')
    (tmp_path / "names.txt").write_text("sit\nrun, walk\njump high\n")
    arguments = ["--to", "videos", "--root", folder, "--label-names", tmp_path / "names.txt"]
    splits = ["--split", f"train={folder}", "--split", f"val={tmp_path / 'val.csv'}"]
    assert run("--out", out, *arguments, *splits, "--videos-per-shard", 4) == 0
    before, train = open_source(folder), open_source(out / "train.csv")
    # label_names.txt is beside the list and has a class without videos.
    assert train.label_names == ("sit", "run, walk", "jump high")
    for index in range(11):
        assert before.label_names[before[index].label] == train.label_names[train[index].label]
    assert train[10].name == "train/run_ walk/0000010_clip 8.mp4"
    assert open_source(out / "val.csv")[0].label == 2
    manifest = _rows(out / "manifest.csv")
    assert [row["file"] for row in manifest] == [
        *(train[index].name for index in range(11)),
        "val/jump high/0000000_clip 3.mp4",
    ]
    for row in manifest:
        assert hashlib.sha256((out / row["file"]).read_bytes()).hexdigest() == row["sha256"]
    assert sorted(path.name for path in out.iterdir()) == [
        *("bad_videos.csv", "label_names.txt", "manifest.csv", "prepare.json"),
        *("train", "train.csv", "val", "val.csv"),
    ]


def test_folders_of_frames(folder: Path, tmp_path: Path, run: Run) -> None:
    for number in range(6):
        image = tmp_path / "frames" / "clip" / f"img_{number:05}.jpg"
        image.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(image), np.full((40, 50, 3), 30 * number, np.uint8))
    (tmp_path / "list.txt").write_text("frames/clip 5 0\n")
    out = tmp_path / "out"
    assert isinstance(open_source(tmp_path / "list.txt")[0].video, FrameFolder)
    assert run("--out", out, "--split", f"train={tmp_path / 'list.txt'}", "--fps", 15) == 0
    row = _rows(out / "manifest.csv")[0]
    assert (row["name"], row["frames"], row["fps"]) == ("frames/clip", "5", "15")


def _break(folder: Path) -> list[str]:
    """Damage three videos and return their names in the order of the source."""
    (folder / "jump high/clip 1.mp4").write_bytes(b"torn")
    (folder / "jump high/clip 5.mp4").write_bytes(b"")
    path = folder / "run, walk/clip 4.mp4"
    path.write_bytes(path.read_bytes()[:-400])
    return ["jump high/clip 1.mp4", "jump high/clip 5.mp4", "run, walk/clip 4.mp4"]


@pytest.mark.parametrize("to", ["records", "videos"])
def test_bad_videos_are_named_and_left_out(
    folder: Path, tmp_path: Path, run: Run, capsys: Capture, to: str
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    arguments = ("--split", f"train={folder}", "--videos-per-shard", 4, "--to", to)
    assert run("--out", whole, *arguments) == 0
    bad = _break(folder)
    assert run("--out", out, *arguments, "--max-bad-fraction", 0.3) == 0
    assert f"8 videos are in {out}; 3 of 11 videos are bad: see {out}/bad_videos.csv" in (
        capsys.readouterr().out
    )
    rows = _rows(out / "bad_videos.csv")
    assert sorted(row["path"] for row in rows) == bad
    reasons = {row["path"]: row["reason"] for row in rows}
    assert all(reason.endswith(".") for reason in reasons.values())
    assert "cannot be read as a video" in reasons[bad[0]]
    # The other videos are in the same shards and have the same bytes.
    good = [row for row in _rows(whole / "manifest.csv") if row["name"] not in bad]
    assert _rows(out / "manifest.csv") == good
    source = open_source(f"{out}:train" if to == "records" else out / "train.csv")
    assert len(source) == 8
    assert source.labels.tolist() == [source.label_names.index(row["label"]) for row in good]


@pytest.mark.parametrize("to", ["records", "videos"])
def test_too_many_bad_videos_can_be_repaired(
    folder: Path,
    tmp_path: Path,
    run: Run,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
    to: str,
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    arguments = ("--split", f"train={folder}", "--videos-per-shard", 4, "--to", to)
    assert run("--out", whole, *arguments) == 0
    originals = content_of(folder)
    bad = _break(folder)
    assert run("--out", out, *arguments) == 1
    assert "3 of 11 videos are bad: see" in capsys.readouterr().out
    assert not {"dataset_info.json", "manifest.csv", "train.csv"} & {p.name for p in out.iterdir()}
    for name in bad[:2]:
        (folder / name).write_bytes(originals[name])
    done: list[str] = []
    store_video = work.store_video
    monkeypatch.setattr(work, "store_video", lambda e, o: done.append(e.name) or store_video(e, o))
    assert run("--out", out, *arguments) == 1
    assert sorted(done) == bad
    assert "8 of 11 videos are done from before" in capsys.readouterr().err
    (folder / bad[2]).write_bytes(originals[bad[2]])
    assert run("--out", out, *arguments) == 0
    assert sorted(done[3:]) == bad[2:]
    assert content_of(out) == content_of(whole)


def test_a_split_without_a_good_video_is_not_completed(
    folder: Path, tmp_path: Path, run: Run, write_video: WriteVideo
) -> None:
    (tmp_path / "val.csv").write_text("path,label\ngone.mp4,jump high\nno.mp4,jump high\n")
    write_video("here.mp4")
    out = tmp_path / "out"
    splits = ("--split", f"train={folder}", "--split", f"val={tmp_path / 'val.csv'}")
    # At least one video of a list must be there.
    assert run("--out", out, *splits, "--max-bad-fraction", 1) == 2
    assert not out.exists()
    (tmp_path / "gone.mp4").write_bytes(b"torn")
    assert run("--out", out, *splits, "--max-bad-fraction", 1) == 1
    assert not (out / "dataset_info.json").exists()


def test_files_lost_in_a_crash_of_the_machine_are_prepared_again(
    folder: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    arguments = ("--split", f"train={folder}", "--videos-per-shard", 4)
    assert run("--out", whole, *arguments) == 0
    store_video, done = work.store_video, []

    def store_seven(example: object, options: object) -> object:
        done.append(example)
        if len(done) == 7:
            raise KeyboardInterrupt
        return store_video(example, options)

    monkeypatch.setattr(work, "store_video", store_seven)
    assert run("--out", out, *arguments) == 130
    # Three videos of the first shard, which is done, and three of the second.
    record_files = sorted((out / "work/train-00001").glob("*.record"))
    assert len(record_files) == 3
    record_files[0].write_bytes(record_files[0].read_bytes()[:-1])
    record_files[1].with_suffix(".json").write_bytes(b"")
    del done[:7]
    monkeypatch.setattr(work, "store_video", lambda e, o: done.append(e.id) or store_video(e, o))
    assert run("--out", out, *arguments) == 0
    assert len(done) == 11 - 3 - 1
    assert {int(path.stem) for path in record_files[:2]} <= set(done)
    assert content_of(out) == content_of(whole)


def test_a_complete_output_is_not_changed(
    folder: Path, tmp_path: Path, run: Run, capsys: Capture
) -> None:
    out = tmp_path / "out"
    command = ("--out", out, "--split", f"train={folder}")
    assert run(*command) == 0
    before = content_of(out)
    (out / "work").mkdir()  # as when the run was killed just before its end
    (out / "work/rest").touch()
    capsys.readouterr()
    assert run(*command) == 0
    assert capsys.readouterr().out == f"{out} is finished already\n"
    for change, message in (
        (("--crf", 30), "was begun with --crf 23.0 (not 30.0)"),
        (("--split", f"val={folder}"), "the splits train (not train, val)"),
    ):
        assert run(*command, *change) == 2
        assert message in capsys.readouterr().err
    (folder / "run, walk/new.mp4").write_bytes(b"another video")
    assert run(*command) == 2
    assert "was begun with other videos in train: give the same" in capsys.readouterr().err
    assert content_of(out) == before


def test_one_run_at_a_time(folder: Path, tmp_path: Path, run: Run, capsys: Capture) -> None:
    out = tmp_path / "out"
    command = ("--out", out, "--split", f"train={folder}")
    assert run(*command) == 0
    (out / "dataset_info.json").unlink()
    (out / "work").mkdir()
    capsys.readouterr()
    with (out / "work/lock").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert run(*command) == 2
        assert f"Another run is writing to {str(out)!r}: wait" in capsys.readouterr().err
    assert run(*command) == 0


def test_wrong_arguments_write_nothing(
    folder: Path,
    tmp_path: Path,
    run: Run,
    script: ModuleType,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(script.importlib.util, "find_spec", lambda name: None)
    train = ("--split", f"train={folder}")
    (tmp_path / "file").write_text("a file")
    (tmp_path / "val/swim").mkdir(parents=True)
    (tmp_path / "val/swim/a.mp4").touch()
    before = content_of(tmp_path)
    for arguments, message in (
        ((*train, "--split", f"train={folder}"), "'train' came twice"),
        (("--split", f"train={tmp_path}/none"), "There is no annotation file or folder"),
        ((*train, "--split", f"val={tmp_path}/val"), "class 'swim' is not among the 2 classes"),
        ((*train, "--label-names", tmp_path / "none"), "one class name a line but"),
        ((*train, "--format", "csv"), "cannot be 'csv'"),
        ((*train, "--short-side", 99), "--short-side to be even"),
        ((*train, "--to", "videos", "--no-reencode"), "leave out one of them"),
        ((*train, "--beam"), "--beam needs Apache Beam: pip install"),
        ((*train, "--beam", "--processes", 2), "--processes has no effect with --beam"),
        ((*train, "--", "--runner=X"), "What follows -- are options of Beam"),
        ((*train, "--out", tmp_path / "file"), "was not begun by this script"),
        ((*train, "--out", folder), "was not begun by this script"),
    ):
        assert run("--out", tmp_path / "out", *arguments) == 2, arguments
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert message in error
        assert error.count("\n") == 1
    for arguments in (
        *((*train, "--gop", "x"), ("--split", "train"), ("--split", "a b=x"), ("--split", "all=x")),
        *((*train, "--processes", 0), (*train, "--max-bad-fraction", 2), (), (*train, "--rate", 1)),
    ):
        with pytest.raises(SystemExit) as caught:
            run("--out", tmp_path / "out", *arguments)
        assert caught.value.code == 2
    assert content_of(tmp_path) == before
    assert not (tmp_path / "out").exists()


@pytest.mark.long
def test_as_a_process_with_several_processes(folder: Path, tmp_path: Path, run: Run) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    arguments = ["--split", f"train={folder}", "--videos-per-shard", "4"]
    assert run("--out", whole, *arguments) == 0
    result = subprocess.run(
        [sys.executable, SCRIPT, "--out", out, *arguments, "--processes", "2"],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(SCRIPT.parents[1])},
    )
    assert result.returncode == 0
    # On a slow machine there are progress lines.
    assert all(re.fullmatch(r"\d+ of 11 videos, .*", line) for line in result.stderr.splitlines())
    assert content_of(out) == content_of(whole)
    assert json.loads((out / "prepare.json").read_text())["settings"]["gop"] == 16
