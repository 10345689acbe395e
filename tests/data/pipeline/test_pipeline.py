import csv
import itertools
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import tensorflow as tf

from vswin_jax.data import ClipSpec, Example, open_source
from vswin_jax.data.clips.clips import test_views as views_of
from vswin_jax.data.clips.clips import train_clip, train_clips
from vswin_jax.data.pipeline.bad_videos import BadVideos
from vswin_jax.data.pipeline.pipeline import eval_batches, train_batches
from vswin_jax.data.pipeline.sampler import Sampler, example_at, example_rng
from vswin_jax.data.sources.sources import VideoSource
from vswin_jax.errors import InputError

WriteVideo = Callable[..., Path]

SPEC = ClipSpec(num_frames=2, frame_interval=2, resize=36, size=32, num_clips=2, num_crops=3)
DTYPES = {"video": "uint8", "label": "int32", "mask": "float32", "id": "int32", "flip": "bool"}
DRAWS = {"epoch": "int32", "frames": "int32", "box": "int32"}


@pytest.fixture
def source(write_video: WriteVideo, tmp_path: Path) -> VideoSource:
    for index, name in enumerate(["jump/a", "jump/b", "run/a", "run/b", "run/c"]):
        write_video(f"set/{name}.mp4", 5 + index)
    return open_source(tmp_path / "set")


def _take(batches: object, count: int) -> list[dict[str, np.ndarray]]:
    return list(itertools.islice(batches, count))


def _assert_equal(actual: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert actual.keys() == expected.keys()
    for key in actual:
        np.testing.assert_array_equal(actual[key], expected[key], err_msg=key)


def test_training_batches_are_a_function_of_seed_and_position(source: VideoSource) -> None:
    batches = _take(train_batches(source, SPEC, batch_size=4, seed=3), 3)
    assert {key: array.dtype for key, array in batches[0].items()} == DTYPES | DRAWS
    assert batches[0]["video"].shape == (4, 1, 2, 32, 32, 3)
    assert (batches[0]["frames"].shape, batches[0]["box"].shape) == ((4, 2), (4, 4))
    rows = [{key: value[j] for key, value in b.items()} for b in batches for j in range(4)]
    for position, row in enumerate(rows):
        epoch, index = example_at(3, position, 5)
        example = source[index]
        clip = train_clip(example, SPEC, example_rng(3, epoch, index))
        expected = {"video": clip.clip, "label": example.label, "mask": 1, "id": index}
        expected |= {"flip": clip.flip, "epoch": epoch, "frames": clip.frames, "box": clip.box}
        _assert_equal(row, expected)


def test_label_sets_are_multi_hot_and_padding_is_zero(
    write_video: WriteVideo, tmp_path: Path
) -> None:
    for name in "abc":
        write_video(f"{name}.mp4", 5)
    lines = ("path,label", "a.mp4,run;jump", "b.mp4,", "c.mp4,swim")
    (tmp_path / "list.csv").write_text("\n".join(lines))
    source = open_source(tmp_path / "list.csv", multi_label=True)
    sets = np.float32([[1, 1, 0], [0, 0, 0], [0, 0, 1]])
    first, second = _take(eval_batches(source, SPEC, batch_size=2), 3)
    assert first["label"].dtype == np.float32
    np.testing.assert_array_equal(first["label"], sets[:2])
    np.testing.assert_array_equal(second["label"], [sets[2], [0, 0, 0]])
    assert second["mask"].tolist() == [1, 0]
    (batch,) = _take(train_batches(source, SPEC, batch_size=3, seed=1), 1)
    assert sorted(batch["id"].tolist()) == [0, 1, 2]
    np.testing.assert_array_equal(batch["label"], sets[batch["id"]])
    (tmp_path / "b.mp4").write_bytes(b"torn")
    with pytest.raises(InputError, match=r"b\.mp4"):
        _take(eval_batches(source, SPEC, batch_size=2), 1)


def test_training_starts_at_any_step(source: VideoSource) -> None:
    whole = _take(train_batches(source, SPEC, batch_size=3, seed=1), 4)
    resumed = _take(train_batches(source, SPEC, batch_size=3, seed=1, start_step=2), 2)
    for batch, expected in zip(resumed, whole[2:], strict=True):
        _assert_equal(batch, expected)


@pytest.mark.parametrize("make", [train_batches, eval_batches])
def test_hosts_split_the_global_batch(source: VideoSource, make: Callable[..., object]) -> None:
    settings = {"batch_size": 4} | ({"seed": 2} if make is train_batches else {})
    whole = _take(make(source, SPEC, **settings), 2)
    hosts = [
        _take(make(source, SPEC, process_index=host, process_count=2, **settings), 2)
        for host in (0, 1)
    ]
    for step, batch in enumerate(whole):
        parts = [host[step] for host in hosts]
        _assert_equal({key: np.concatenate([p[key] for p in parts]) for key in batch}, batch)


@pytest.mark.parametrize("hosts", [1, 2])
def test_repeats_are_read_once_and_kept_apart(source: VideoSource, hosts: int) -> None:
    """Each host has three clips of two videos: the first clips of both, then the second ones."""
    spec = replace(SPEC, rand_augment_n=1)
    settings = {"batch_size": 6 * hosts, "seed": 3, "aug_repeats": 3, "process_count": hosts}
    for host in range(hosts):
        batches = _take(train_batches(source, spec, process_index=host, **settings), 3)
        for step, batch in enumerate(batches):
            for video in range(2):
                epoch, index = example_at(3, step * 2 * hosts + host * 2 + video, 5)
                clips = train_clips(source[index], spec, example_rng(3, epoch, index), 3)
                for repeat, clip in enumerate(clips):
                    row = {key: value[repeat * 2 + video] for key, value in batch.items()}
                    expected = {"video": clip.clip, "label": source[index].label, "mask": 1}
                    expected |= {"id": index, "epoch": epoch, "flip": clip.flip}
                    _assert_equal(row, expected | {"frames": clip.frames, "box": clip.box})


def test_repeats_of_a_bad_video_come_from_its_replacement(source: VideoSource) -> None:
    Path(source[3].video).write_bytes(b"torn")
    counts = BadVideos(max_fraction=1.0)
    settings = {"batch_size": 10, "seed": 0, "aug_repeats": 2, "bad_videos": counts}
    (batch,) = _take(train_batches(source, SPEC, **settings), 1)
    ids = batch["id"].reshape(2, 5)
    assert ids[0].tolist() == ids[1].tolist()
    assert set(ids[0].tolist()) == {0, 1, 2, 4}
    np.testing.assert_array_equal(batch["frames"][:5], batch["frames"][5:])
    assert not any(np.array_equal(batch["box"][k], batch["box"][k + 5]) for k in range(5))


def test_classes_are_balanced(source: VideoSource) -> None:
    """Class 0 has two of the five videos, class 1 three; balanced, both have two or three rows."""
    batches = _take(train_batches(source, SPEC, batch_size=5, seed=3, class_balance=1.0), 12)
    sampler = Sampler(3, 5, source.labels, 1.0)
    twice = 0
    for epoch, batch in enumerate(batches):
        states = [sampler.at(epoch * 5 + row) for row in range(5)]
        assert batch["id"].tolist() == [state.example for state in states]
        assert batch["epoch"].tolist() == [epoch] * 5
        assert sum(batch["label"]) in (2, 3)
        for row, state in enumerate(states):
            rng = example_rng(3, epoch, state.example, occurrence=state.occurrence)
            clip = train_clip(source[state.example], SPEC, rng)
            np.testing.assert_array_equal(batch["video"][row], clip.clip)
            twice += state.occurrence
    assert twice > 0
    assert {sum(batch["label"]) for batch in batches} == {2, 3}


def test_class_balance_needs_one_label_per_video(source: VideoSource) -> None:
    source.labels = np.eye(2, dtype=np.int32)[source.labels]
    with pytest.raises(InputError, match="class_balance needs one class for every video"):
        train_batches(source, SPEC, batch_size=1, seed=0, class_balance=0.5)


@pytest.mark.parametrize("operations", [0, 2])
def test_mirrored_clips_have_the_mirrored_label(source: VideoSource, operations: int) -> None:
    spec = replace(SPEC, rand_augment_n=operations)
    settings = {"batch_size": 5, "seed": 0}
    plain = _take(train_batches(source, spec, **settings), 4)
    mirrored = np.array([1, 0], np.int32)
    exchanged = _take(train_batches(source, spec, mirrored_labels=mirrored, **settings), 4)
    seen = set()
    for epoch, (before, after) in enumerate(zip(plain, exchanged, strict=True)):
        for row, index in enumerate(before["id"].tolist()):
            clip = train_clip(source[index], spec, example_rng(0, epoch, index))
            assert before["label"][row] == source[index].label
            assert after["label"][row] == (source[index].label + clip.mirrored) % 2
            seen.add(clip.mirrored)
        after["label"] = before["label"]
        _assert_equal(before, after)
    assert seen == {True, False}


def test_batches_do_not_depend_on_the_number_of_threads(source: VideoSource) -> None:
    one, four = (
        _take(train_batches(source, SPEC, batch_size=5, seed=0, threads=threads), 3)
        for threads in (1, 4)
    )
    for batch, expected in zip(one, four, strict=True):
        _assert_equal(batch, expected)


@pytest.mark.parametrize(("batch_size", "hosts"), [(1, 1), (2, 1), (5, 1), (8, 1), (2, 2), (12, 4)])
def test_evaluation_counts_every_video_once(
    source: VideoSource, batch_size: int, hosts: int
) -> None:
    spec = replace(SPEC, num_frames=1, num_clips=1, num_crops=1)
    per_host = [
        list(
            eval_batches(source, spec, batch_size=batch_size, process_index=h, process_count=hosts)
        )
        for h in range(hosts)
    ]
    assert {len(batches) for batches in per_host} == {-(-5 // batch_size)}
    batches = [batch for host in per_host for batch in host]
    assert {len(batch["id"]) for batch in batches} == {batch_size // hosts}
    ids, mask = (np.concatenate([batch[key] for batch in batches]) for key in ("id", "mask"))
    assert sorted(ids[mask > 0].tolist()) == [0, 1, 2, 3, 4]
    assert (ids[mask == 0] == -1).all()
    assert not any(batch["video"][batch["mask"] == 0].any() for batch in batches)


def test_evaluation_rows_are_all_views(source: VideoSource) -> None:
    batch = next(eval_batches(source, SPEC, batch_size=3))
    assert batch.keys() == DTYPES.keys()
    assert batch["video"].shape == (3, 6, 2, 32, 32, 3)
    assert batch["label"].tolist() == [0, 0, 1]
    assert not batch["flip"].any()
    for row in range(3):
        np.testing.assert_array_equal(batch["video"][row], views_of(source[row], SPEC))


@pytest.mark.parametrize("damage", [b"torn", None, b"zzzz"], ids=["torn", "missing", "codec"])
def test_a_broken_video_stops_an_evaluation_with_its_error(
    source: VideoSource, damage: bytes | None, tmp_path: Path
) -> None:
    path = tmp_path / "set/run/b.mp4"
    whole = path.read_bytes()
    path.unlink()
    if damage:
        path.write_bytes(whole.replace(b"avc1", damage) if damage == b"zzzz" else damage)
    with pytest.raises(InputError, match=r"run/b\.mp4' (cannot be read|is stored)") as caught:
        _take(eval_batches(source, SPEC, batch_size=1), 5)
    assert type(caught.value) is InputError


@pytest.fixture
def damaged(write_video: WriteVideo, tmp_path: Path) -> tuple[VideoSource, set[int]]:
    """Write a set of good videos and one bad video of every kind; return it and the bad indices."""
    for number in range(8):
        write_video(f"mixed/good/{number}.mp4", 5 + number)
    write_video("mixed/good/one_frame.mp4", 1)
    whole = (tmp_path / "mixed/good/7.mp4").read_bytes()
    contents = {
        "truncated": whole[: len(whole) // 2],
        "empty": b"",
        "text": b"no video at all",
        "codec": whole.replace(b"avc1", b"zzzz"),
        "missing": b"removed before it is read",
    }
    for name, content in contents.items():
        path = tmp_path / f"mixed/bad/{name}.mp4"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    with av.open(str(tmp_path / "mixed/bad/no_frames.mkv"), "w") as container:
        container.add_stream("libx264", rate=12, width=32, height=32, pix_fmt="yuv420p")
        container.start_encoding()
    with av.open(str(tmp_path / "mixed/bad/sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), "fltp", "mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    source = open_source(tmp_path / "mixed")
    (tmp_path / "mixed/bad/missing.mp4").unlink()
    bad = {i for i in range(len(source)) if source[i].name.startswith("bad")}
    assert len(bad) == 7
    return source, bad


def test_replacements_are_the_same_after_a_restart_and_on_any_hosts(
    damaged: tuple[VideoSource, set[int]], tmp_path: Path
) -> None:
    source, bad = damaged
    table = tmp_path / "bad_videos.csv"

    def take(count: int, **settings: int) -> list[dict[str, np.ndarray]]:
        counts = BadVideos(table, max_fraction=1.0)
        return _take(
            train_batches(source, SPEC, batch_size=4, seed=6, bad_videos=counts, **settings), count
        )

    whole = take(8)  # two epochs of 16 videos
    rows = [{key: value[j] for key, value in b.items()} for b in whole for j in range(4)]
    for position, row in enumerate(rows):
        index = example_at(6, position, 16)[1]
        assert (row["id"] == index) == (index not in bad)
        assert row["id"] not in bad
        assert (row["label"], row["mask"]) == (1, 1)
        assert row["video"].any()
    with table.open(newline="") as file:
        listed = list(csv.DictReader(file))
    assert sorted(row["path"] for row in listed) == sorted(source[i].name for i in bad)
    for batch, expected in zip(take(5, start_step=3), whole[3:], strict=True):
        _assert_equal(batch, expected)
    hosts = [take(8, process_index=host, process_count=4) for host in range(4)]
    for step, batch in enumerate(whole):
        parts = [host[step] for host in hosts]
        _assert_equal({key: np.concatenate([p[key] for p in parts]) for key in batch}, batch)
    assert len(table.read_text().splitlines()) == 1 + len(bad)


def test_a_replacement_is_another_clip_than_at_its_own_position(source: VideoSource) -> None:
    """One of the five videos is bad, so every epoch has two clips of one video, which differ."""
    (Path(source[3].video)).write_bytes(b"torn")
    batches = _take(train_batches(source, SPEC, batch_size=5, seed=0), 4)
    for batch in batches:
        ids = batch["id"].tolist()
        twice = [row for row, example in enumerate(ids) if ids.count(example) == 2]
        assert len(twice) == 2
        assert not np.array_equal(*batch["video"][twice])


def test_too_many_bad_videos_stop_training(damaged: tuple[VideoSource, set[int]]) -> None:
    with pytest.raises(InputError, match=r"of \d\d reads .*max_bad_fraction \(0\.05\)") as caught:
        _take(train_batches(damaged[0], SPEC, batch_size=4, seed=6), 50)
    assert type(caught.value) is InputError


def test_only_bad_videos_stop_training_at_once(source: VideoSource) -> None:
    for index in range(5):
        Path(source[index].video).write_bytes(b"torn")
    # Threads prefetch: by the time one of them has tried all five, they may have read many.
    message = r"(None of 5 videos|of \d\d reads) .*\.mp4' cannot be read"
    with pytest.raises(InputError, match=message):
        next(train_batches(source, SPEC, batch_size=1, seed=0))


def test_batches_before_a_broken_video_are_complete(source: VideoSource, tmp_path: Path) -> None:
    (tmp_path / "set/run/b.mp4").write_bytes(b"torn")  # the fourth of five
    batches = eval_batches(source, SPEC, batch_size=2)
    assert next(batches)["id"].tolist() == [0, 1]
    with pytest.raises(InputError):
        next(batches)
    assert list(batches) == []


@pytest.mark.long
def test_python_exits_while_clips_are_being_decoded(source: VideoSource, tmp_path: Path) -> None:
    code = """
import sys
from vswin_jax.data import ClipSpec, open_source
from vswin_jax.data.pipeline.pipeline import train_batches
spec = ClipSpec(num_frames=64, frame_interval=1, resize=480, size=480)
batches = train_batches(open_source(sys.argv[1]), spec, batch_size=1, seed=0, threads=4)
print(next(batches)["id"].shape)
"""
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "set")],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        cwd=Path(__file__).parents[3],
    )
    assert result.stdout.strip() == "(1,)"


def test_other_exceptions_keep_their_type() -> None:
    class Broken:
        label_names = ("a",)
        multi_label = False

        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> None:
            raise ZeroDivisionError("a defect")

    with pytest.raises(ZeroDivisionError, match="a defect"):
        next(train_batches(Broken(), SPEC, batch_size=1, seed=0))


def test_batch_sizes_that_do_not_fit(source: VideoSource) -> None:
    for batch_size, hosts in ((3, 2), (0, 1)):
        with pytest.raises(InputError, match="positive multiple"):
            train_batches(source, SPEC, batch_size=batch_size, seed=0, process_count=hosts)
        with pytest.raises(InputError, match="positive multiple"):
            eval_batches(source, SPEC, batch_size=batch_size, process_count=hosts)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"batch_size": 4, "aug_repeats": 3},
            r"multiple of the 1 process times aug_repeats \(3\) but is 4",
        ),
        (
            {"batch_size": 6, "aug_repeats": 3, "process_count": 4},
            r"the 4 processes times aug_repeats \(3\) but is 6",
        ),
        ({"batch_size": 6, "aug_repeats": 0}, "aug_repeats from 1 up but 0.0 and 0 came"),
        ({"batch_size": 6, "class_balance": 1.5}, "class_balance from 0 to 1"),
    ],
)
def test_sampling_options_out_of_range(
    settings: dict[str, float], words: str, source: VideoSource
) -> None:
    with pytest.raises(InputError, match=words):
        train_batches(source, SPEC, seed=0, **settings)


@pytest.mark.parametrize("make", [train_batches, eval_batches])
def test_frame_folders_have_no_frame_rate(tmp_path: Path, make: Callable[..., object]) -> None:
    """Raise at once: otherwise every folder would be counted as bad and replaced."""
    for name in ("jump", "run"):
        (tmp_path / "set" / name / "a").mkdir(parents=True)
        (tmp_path / "set" / name / "a" / "img_1.png").write_bytes(b"is not opened")
    folders = open_source(tmp_path / "set")
    settings = {"batch_size": 1} | ({"seed": 2} if make is train_batches else {})
    with pytest.raises(InputError, match=r"data\.fps is 5, but images do not"):
        make(folders, replace(SPEC, fps=5.0), **settings)


def test_a_damaged_first_record_is_replaced_in_clips_of_a_frame_rate(source: VideoSource) -> None:
    class DamagedFirst:
        label_names, multi_label = source.label_names, False

        def __len__(self) -> int:
            return len(source)

        def __getitem__(self, index: int) -> Example:
            if index == 0:
                raise InputError("record 0 is damaged.")
            return source[index]

    spec, bad_videos = replace(SPEC, fps=5.0), BadVideos(max_fraction=1.0)
    batches = train_batches(DamagedFirst(), spec, batch_size=1, seed=0, bad_videos=bad_videos)
    ids = {int(next(batches)["id"][0]) for _ in range(2 * len(source))}
    assert 0 not in ids
    assert bad_videos.bad > 0


def test_tensorflow_sees_no_accelerator() -> None:
    assert tf.config.get_visible_devices("GPU") == []


def test_only_the_pipeline_needs_tensorflow() -> None:
    code = "import sys, vswin_jax.data; print({'tensorflow', 'jax', 'flax'} & set(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[3],
    )
    assert result.stdout.strip() == "set()"
