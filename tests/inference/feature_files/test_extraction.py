"""Features of a small trained run in files: values, names, labels, kills, several processes."""

import json
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from drawn_videos import write_broken
from small_checkpoints import write_image_model, write_small_video

import vswin_jax
from vswin_jax import features as features_command
from vswin_jax.errors import InputError
from vswin_jax.inference import features, load_features
from vswin_jax.inference.feature_files import feature_program

if TYPE_CHECKING:
    from conftest import Run

ROOT = Path(__file__).parents[3]
PATIENCE = 300.0


@pytest.fixture(scope="module")
def test_set(tiny_run: "Run") -> Path:
    return tiny_run.workdir / "moving_shapes" / "test"


@pytest.fixture(scope="module")
def shape_list(test_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a list with the 8 test videos, and in their middle one that cannot be read."""
    folder = tmp_path_factory.mktemp("list")
    write_broken(folder / "broken.mp4")
    videos = sorted(test_set.glob("*/*.mp4"))
    rows = [(os.fspath(video), video.parent.name) for video in videos]
    rows.insert(4, (os.fspath(folder / "broken.mp4"), rows[0][1]))
    path = folder / "list.csv"
    path.write_text("path,label\n" + "".join(f"{video},{label}\n" for video, label in rows))
    return path


@pytest.fixture(scope="module")
def written(tiny_run: "Run", shape_list: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory of shards of two videos, which two views of each enter."""
    out = tmp_path_factory.mktemp("features") / "npz"
    extract(shape_list, tiny_run, out)
    return out


def extract(videos: Path, run: "Run", out: Path, **options: object) -> object:
    """Write features in shards of 2 videos, with two clips of each, decoded by threads."""
    defaults = {"views": (2, 1), "videos_per_shard": 2, "batch_size": 4, "processes": 0}
    return features(videos, run.workdir, out, **(defaults | options))


def files_in(directory: Path) -> dict[str, bytes]:
    paths = sorted(path for path in directory.rglob("*") if path.is_file())
    return {os.fspath(path.relative_to(directory)): path.read_bytes() for path in paths}


def test_pooled_features_are_the_input_of_the_classifier(
    written: Path, tiny_run: "Run", test_set: Path
) -> None:
    model = vswin_jax.load(tiny_run.workdir)
    stored = load_features(written)
    videos = sorted(test_set.glob("*/*.mp4"))
    assert stored.names == tuple(map(os.fspath, videos))
    assert [stored.label_names[label] for label in stored.labels] == [
        video.parent.name for video in videos
    ]
    assert stored.index.tolist() == [0, 1, 2, 3, 5, 6, 7, 8]
    ((index, name, reason),) = stored.unreadable
    assert (index, Path(name).name) == (4, "broken.mp4")
    assert "broken.mp4" in reason
    assert stored.features.shape == (8, 2, 4)
    for video, found in zip(videos, stored.features, strict=True):
        final = model.features(model.read_views(video, views=(2, 1)))["final"]
        np.testing.assert_allclose(found, final.mean((1, 2, 3)), atol=1e-5)
    assert stored.settings["views"] == [{"clip": 0, "crop": 0}, {"clip": 1, "crop": 0}]
    assert stored.settings["step"] == 40


def test_the_files_are_read_without_this_package(written: Path) -> None:
    stored = load_features(written)
    shards = [np.load(path) for path in sorted(written.glob("shard-*.npz"))]
    assert len(shards) == 5
    for name in ("features", "names", "labels"):
        values = np.concatenate([shard[name] for shard in shards])
        assert np.array_equal(values, np.asarray(getattr(stored, name)))


def test_feature_maps_of_one_file_a_video(
    tiny_run: "Run", shape_list: Path, test_set: Path, tmp_path: Path
) -> None:
    layer = "stage0_before_merge"
    result = extract(shape_list, tiny_run, tmp_path, layer=layer, format="npy", dtype="float16")
    assert (result.num_videos, len(result.unreadable), result.earlier) == (8, 1, 0)
    model = vswin_jax.load(tiny_run.workdir)
    video = sorted(test_set.glob("*/*.mp4"))[-1]
    expected = np.asarray(model.features(model.read_views(video, views=(2, 1)))[layer])
    (path,) = tmp_path.rglob(f"{video.parent.name}/{video.stem}.npy")
    found = np.load(path)
    assert found.shape == expected.shape == (2, 2, 4, 4, 4)
    assert found.dtype == np.float16
    # float16 has 11 significant bits.
    np.testing.assert_allclose(found, expected, rtol=2**-11, atol=1e-5)
    stored = load_features(tmp_path)
    assert len(stored.names) == 8
    assert np.array_equal(stored.features[-1], found)
    assert stored.unreadable[0].index == 4


def test_parquet_holds_what_npz_holds(
    tiny_run: "Run", shape_list: Path, written: Path, tmp_path: Path
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    extract(shape_list, tiny_run, tmp_path, format="parquet", dtype="float16")
    stored, expected = load_features(tmp_path), load_features(written)
    assert (stored.names, stored.unreadable) == (expected.names, expected.unreadable)
    assert np.array_equal(stored.labels, expected.labels)
    np.testing.assert_array_equal(stored.features, expected.features.astype(np.float16))
    rows = parquet.ParquetFile(tmp_path / "shard-00002-of-00005.parquet").read().to_pylist()
    assert [row["index"] for row in rows] == [4, 5]
    assert rows[0]["features"] is None
    assert "broken.mp4" in rows[0]["reason"]
    assert rows[1]["reason"] is None
    assert rows[1]["features"] == stored.features[4].reshape(-1).tolist()


def test_a_second_start_writes_what_is_missing(
    tiny_run: "Run", shape_list: Path, written: Path
) -> None:
    before = files_in(written)
    for shard in (1, 4):
        (written / f"shard-0000{shard}-of-00005.npz").unlink()
    with pytest.raises(InputError, match=r"2 of the 5 shards of .* are missing \(shard-00001"):
        load_features(written)
    assert load_features(written, allow_missing=True).index.tolist() == [0, 1, 5, 6, 7]
    # As a killed process leaves it.
    (written / ".shard-00001-of-00005.npz.1-of-1.partial").write_bytes(b"half of it")
    result = extract(shape_list, tiny_run, written)
    assert (result.num_videos, result.earlier) == (3, 3)
    assert files_in(written) == before


def test_shares_of_several_machines_make_the_same_files(
    tiny_run: "Run", shape_list: Path, written: Path, tmp_path: Path
) -> None:
    first = extract(shape_list, tiny_run, tmp_path, share="1/2")
    assert first.num_videos == 4
    with pytest.raises(InputError, match="2 of the 5 shards"):
        load_features(tmp_path)
    extract(shape_list, tiny_run, tmp_path, share="2/2")
    assert files_in(tmp_path) == files_in(written)


def test_other_settings_are_refused(
    tiny_run: "Run", shape_list: Path, test_set: Path, written: Path
) -> None:
    before = files_in(written)
    for videos, options, words in (
        (shape_list, {"views": (1, 1)}, "of other settings .*shape"),
        (shape_list, {"layer": "final"}, "layer 'pooled', not 'final'"),
        (shape_list, {"dtype": "float16"}, "dtype 'float32', not 'float16'"),
        (shape_list, {"videos_per_shard": 3}, "videos_per_shard 2, not 3"),
        (sorted(test_set.glob("*/*.mp4"))[:2], {}, "other videos or labels; num_videos 9, not 2"),
    ):
        with pytest.raises(InputError, match=words):
            extract(videos, tiny_run, written, **options)
    assert files_in(written) == before


def test_wrong_inputs_get_a_sentence(tiny_run: "Run", shape_list: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for options, words in (
        ({"layer": "stage0"}, "Unknown layer 'stage0': the known values of layer are final"),
        ({"layer": "head"}, "known values of layer are final, patch_embed, pooled"),
        ({"dtype": "bfloat16"}, "Unknown dtype of features 'bfloat16'"),
        ({"format": "hdf5"}, "known values of format are npy, npz, parquet"),
        ({"share": "0/2"}, "I from 1 to N, such as 2/4, but '0/2' came"),
        ({"share": "half"}, "but 'half' came"),
        ({"videos_per_shard": 0}, "1 or more videos a shard but 0 came"),
        ({"batch_size": -1}, "batch size of 1 or more but -1 came"),
    ):
        with pytest.raises(InputError, match=words):
            extract(shape_list, tiny_run, out, **options)
    with pytest.raises(InputError, match="There is no video file"):
        extract(tmp_path / "missing.mp4", tiny_run, out)
    with pytest.raises(InputError, match=r"has no features\.json"):
        load_features(tmp_path)
    assert not list(out.glob("shard-*"))


def test_a_damaged_shard_is_named(written: Path, tmp_path: Path) -> None:
    (tmp_path / "features.json").write_bytes((written / "features.json").read_bytes())
    for path in written.glob("shard-*"):
        (tmp_path / path.name).write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"shard-00000-of-00005\.npz' cannot be read"):
        load_features(tmp_path)


def test_weights_of_an_image_model_give_features(tmp_path: Path) -> None:
    weights = write_image_model(tmp_path / "image.pth")
    video = write_small_video(tmp_path / "video.mp4")
    result = features(video, weights, tmp_path / "out", views=(1, 1), processes=0)
    stored = load_features(result.directory)
    assert stored.names == (os.fspath(video),)
    assert (stored.label_names, stored.labels.tolist()) == ((), [-1])
    assert stored.features.shape == (1, *stored.settings["shape"])
    assert np.isfinite(stored.features).all()


def test_float16_that_overflows_is_refused() -> None:
    from vswin_jax.inference.feature_files.collected_shards import _check_range

    with pytest.raises(InputError, match="exceed the range of float16: write float32"):
        _check_range("a.mp4", np.array([np.inf], np.float16))


def test_batches_of_large_maps_are_small() -> None:
    program = feature_program.FeatureProgram(lambda *_: {}, {}, (12, 16, 56, 56, 96), "float32")
    assert program.batch_size(None, devices=1) == 1
    assert program.batch_size(None, devices=4) == 4
    pooled = feature_program.FeatureProgram(lambda *_: {}, {}, (12, 768), "float32")
    assert pooled.batch_size(None, devices=6) == 12


def test_the_command(
    tiny_run: "Run", shape_list: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = [shape_list, "--checkpoint", tiny_run.workdir, "--out", tmp_path / "out"]
    assert features_command.run([*map(os.fspath, arguments), "--views=1x1"]) == 1
    out, err = capfd.readouterr()
    assert (
        out == f"features of 8 videos (pooled, float32 [1, 4]) are written to {tmp_path / 'out'}\n"
    )
    assert "error: " in err
    assert "broken.mp4" in err
    assert features_command.run([*map(os.fspath, arguments), "--views=1x1"]) == 0
    assert "features of 0 videos" in (printed := capfd.readouterr().out)
    assert printed.endswith("; 1 shards were there before\n")
    assert features_command.run([*map(os.fspath, arguments), "--layer=stage9"]) == 2
    assert "error: Unknown layer 'stage9'" in capfd.readouterr().err


def start(arguments: Sequence[object], cache: Path) -> "subprocess.Popen[str]":
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": os.fspath(cache)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = [sys.executable, "-m", "vswin_jax.features", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, env=environment, **pipes)


@pytest.mark.long
def test_a_killed_start_ends_in_the_same_files(
    tiny_run: "Run", test_set: Path, tmp_path: Path, compiled_programs: Path
) -> None:
    # Every video again and again, so that the first start is killed in the middle.
    rows = [f"{video},{i % 8}" for i, video in enumerate([*test_set.glob("*/*.mp4")] * 40)]
    (tmp_path / "long.csv").write_text("path,label\n" + "\n".join(rows))
    options = ["--checkpoint", tiny_run.workdir, "--videos-per-shard=8", "--batch-size=4"]
    options += ["--views=2x1", "--out", tmp_path / "killed"]
    process = start([tmp_path / "long.csv", *options], compiled_programs)
    deadline = time.monotonic() + PATIENCE
    while len([*(tmp_path / "killed").glob("shard-*")]) < 3:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert 3 <= len([*(tmp_path / "killed").glob("shard-*")]) < 40
    for name in ("killed", "whole"):
        extract(tmp_path / "long.csv", tiny_run, tmp_path / name, videos_per_shard=8)
    assert files_in(tmp_path / "killed") == files_in(tmp_path / "whole")


@pytest.mark.long
def test_two_processes_that_join_write_the_same_files(
    tiny_run: "Run", shape_list: Path, written: Path, tmp_path: Path, compiled_programs: Path
) -> None:
    port = runpy.run_path(os.fspath(ROOT / "scripts" / "launch" / "local.py"))["socket"].socket()
    with port:
        port.bind(("localhost", 0))
        address = f"localhost:{port.getsockname()[1]}"
    arguments = [shape_list, "--checkpoint", tiny_run.workdir, "--out", tmp_path, "--views=2x1"]
    arguments += ["--videos-per-shard=2", "--batch-size=4", f"--coordinator={address}"]
    processes = [
        start([*arguments, "--num_processes=2", f"--process_id={index}"], compiled_programs)
        for index in range(2)
    ]
    outputs = [process.communicate(timeout=PATIENCE) for process in processes]
    assert [process.returncode for process in processes] == [1, 0], outputs
    # Gloo prints a line of its own.
    assert all("features of 4 videos (" in out for out, _ in outputs), outputs
    found, expected = files_in(tmp_path), files_in(written)
    assert json.loads(found.pop("features.json")) == json.loads(expected.pop("features.json"))
    assert found == expected
