"""The preparation as a Beam pipeline, on the direct runner."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from vswin_jax.data.moving_shapes.moving_shapes import write_moving_shapes

from .conftest import content_of

pytest.importorskip("apache_beam", reason="the pipeline needs Apache Beam")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("shapes") / "videos"
    write_moving_shapes(directory, train_scenes=3, test_scenes=1, size=32, num_frames=4)
    (directory / "train/grow/scene_00001.mp4").write_bytes(b"torn")
    return directory


@pytest.mark.parametrize("to", ["records", "videos"])
def test_the_pipeline_writes_the_same_bytes(
    videos: Path, tmp_path: Path, run: Callable[..., int], to: str
) -> None:
    splits = ("--split", f"train={videos / 'train'}", "--split", f"val={videos / 'test'}")
    settings = (*splits, "--videos-per-shard", 7, "--to", to)
    assert run("--out", tmp_path / "plain", *settings) == 0
    assert run("--out", tmp_path / "beam", "--beam", *settings) == 0
    assert content_of(tmp_path / "beam") == content_of(tmp_path / "plain")


def test_the_pipeline_continues_a_run_of_processes(
    videos: Path, tmp_path: Path, run: Callable[..., int]
) -> None:
    grow, out = tmp_path / "train" / "grow", tmp_path / "out"
    shutil.copytree(videos / "train", tmp_path / "train")
    settings = ("--split", f"train={tmp_path / 'train'}", "--videos-per-shard", 7)
    assert run("--out", out, *settings, "--max-bad-fraction", 0) == 1
    shutil.copyfile(grow / "scene_00000.mp4", grow / "scene_00001.mp4")
    times = {path: path.stat().st_mtime_ns for path in out.glob("videos-*")}
    assert run("--out", out, *settings, "--max-bad-fraction", 0, "--beam") == 0
    changed = [path for path, written in times.items() if path.stat().st_mtime_ns != written]
    assert len(changed) == 1


def test_the_pipeline_reads_records_as_a_source(
    videos: Path, tmp_path: Path, run: Callable[..., int]
) -> None:
    first = tmp_path / "first"
    assert run("--out", first, "--split", f"train={videos / 'test'}") == 0
    again = ("--split", f"train={first}:train", "--store", "jpeg", "--videos-per-shard", 3)
    assert run("--out", tmp_path / "plain", *again) == 0
    beam = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")
    assert run("--out", tmp_path / "beam", "--beam", *again, "--", *beam) == 0
    assert content_of(tmp_path / "beam") == content_of(tmp_path / "plain")
