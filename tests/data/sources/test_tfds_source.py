"""TFDS data sets opened by `open_source`, compared with the reader of TFDS."""

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from vswin_jax import factory
from vswin_jax.config import base
from vswin_jax.data import Source, open_source, open_video
from vswin_jax.data.decoding import frames
from vswin_jax.data.pipeline.video_check import unreadable_reason
from vswin_jax.data.sources.tfds_features import find_keys
from vswin_jax.data.sources.tfds_path import TfdsPath, parse_tfds_path
from vswin_jax.errors import InputError
from vswin_jax.runtime.worker_pool import map_in_processes

from .conftest import failures_in_threads, open_error

F = tfds.features
CHECK_VIDEOS = Path(__file__).parents[3] / "scripts" / "check_videos.py"
CLASSES = ("jump high", "run")


def _frames(number: int) -> np.ndarray:
    """Return three to six frames of random pixels."""
    shape = (3 + number % 4, 10, 14, 3)
    return np.random.default_rng(number).integers(0, 256, shape, dtype=np.uint8)


class TinyVideos(tfds.core.GeneratorBasedBuilder):
    """Frames as PNG images, as the builder of `ucf101` stores them."""

    VERSION = tfds.core.Version("1.2.0")
    BUILDER_CONFIGS = (tfds.core.BuilderConfig(name="small", version="1.2.0"),)

    def _info(self) -> tfds.core.DatasetInfo:
        features = F.FeaturesDict(
            {"video": F.Video(shape=(None, 10, 14, 3)), "label": F.ClassLabel(names=CLASSES)}
        )
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, _: Any) -> dict[str, Any]:
        return {"train": self._generate_examples(20), "test": self._generate_examples(5)}

    def _generate_examples(self, count: int) -> Any:
        for number in range(count):
            yield number, {"video": _frames(number), "label": number % 2}


# TFDS looks up a builder's module, and this one cannot be imported by name.
TinyVideos.__module__ = "tiny_videos"


@pytest.fixture(scope="module", params=["tfrecord", "array_record"])
def builder(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tfds.core.DatasetBuilder:
    root = tmp_path_factory.mktemp(request.param)
    builder = TinyVideos(data_dir=root, file_format=request.param)
    builder.download_and_prepare()
    return builder


def _read_by_tfds(builder: tfds.core.DatasetBuilder, split: str) -> list[dict[str, Any]]:
    if builder.info.file_format.value == "array_record":
        return list(builder.as_data_source(split))
    return list(tfds.as_numpy(builder.as_dataset(split=split, shuffle_files=False)))


def _every_frame(source: Source, index: int) -> np.ndarray:
    with open_video(source[index].video) as video:
        return np.stack(list(video.frames()))


@pytest.mark.parametrize("split", ["train", "train[25%:70%]", "test+train[-3:]"])
def test_frames_and_labels_equal_those_that_tfds_reads(
    builder: tfds.core.DatasetBuilder, split: str
) -> None:
    source = open_source(f"{builder.data_dir}:{split}")
    expected = _read_by_tfds(builder, split)
    assert len(source) == len(expected) > 0
    assert source.label_names == CLASSES
    for index in np.random.default_rng(0).permutation(len(source)).tolist():
        example = source[index]
        np.testing.assert_array_equal(
            _every_frame(source, index), np.stack(expected[index]["video"])
        )
        assert example.label == expected[index]["label"]
        assert (example.id, example.name) == (index, f"{split}/{index}")
    assert source.labels.tolist() == [example["label"] for example in expected]
    assert source.labels.dtype == np.int32


def test_opening_by_the_name_in_the_catalogue(builder: tfds.core.DatasetBuilder) -> None:
    root = builder.data_path.parents[2]
    name = "tfds:tiny_videos"
    for path in (
        f"{name}:test",
        f"{name}/small:test",
        f"{name}/small:1.2.0:test",
        f"{name}:1.*.*:test",
    ):
        assert len(open_source(path, root=root)) == 5
    for path, message in (
        (f"{name}:val", "has no split 'val': it has test, train"),
        (f"{name}:test[", "has no split 'test['"),
        (name, f"as in {name}:SPLIT: add one of test, train"),
        (f"{name}:2.0.0:test", "'tiny_videos:2.0.0' is not prepared in"),
        (f"{name}/big:test", "run `tfds build tiny_videos/big --data_dir"),
        ("tfds:tiny videos:test", "Expected tfds:NAME[/CONFIG][:VERSION]:SPLIT"),
    ):
        assert message in open_error(path, root=root)


def test_only_the_frames_of_the_clip_are_decoded(
    builder: tfds.core.DatasetBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_source(f"{builder.data_dir}:train")
    decoded: list[int] = []
    imdecode = cv2.imdecode

    def counting_imdecode(encoded: np.ndarray, flags: int) -> np.ndarray:
        decoded.append(encoded.size)
        return imdecode(encoded, flags)

    monkeypatch.setattr(frames.cv2, "imdecode", counting_imdecode)
    with open_video(source[0].video) as video:
        clip = video.decode([2, 0, 2])
    assert len(decoded) == 2
    np.testing.assert_array_equal(clip, _every_frame(source, 0)[[2, 0, 2]])


def test_threads_and_processes_share_a_source(builder: tfds.core.DatasetBuilder) -> None:
    source = open_source(f"{builder.data_dir}:train")
    expected = [_every_frame(source, index) for index in range(len(source))]

    def is_correct(index: int) -> bool:
        return np.array_equal(_every_frame(source, index), expected[index])

    assert not failures_in_threads(is_correct, len(source), 40)
    for index, example in map_in_processes(source.__getitem__, iter(range(3)), 1):
        assert (example.id, example.label) == (index, source[index].label)
        assert list(example.video.images) == list(source[index].video.images)


def test_classes_are_matched_by_name(builder: tfds.core.DatasetBuilder) -> None:
    path = f"{builder.data_dir}:test"
    own = open_source(path, num_classes=2)
    other = open_source(path, label_names=("crawl", "run", "jump high"), num_classes=3)
    assert other.label_names == ("crawl", "run", "jump high")
    assert [own.label_names[k] for k in own.labels] == [other.label_names[k] for k in other.labels]
    assert other.labels.tolist() == [other[i].label for i in range(5)]
    assert "class 'jump high' is not among the 2 classes" in open_error(
        path, label_names=("run", "hop")
    )
    assert "The model has 3 classes but" in open_error(path, num_classes=3)


def test_the_factory_and_check_videos_accept_tfds_paths(
    builder: tfds.core.DatasetBuilder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = base.base_config()
    config.data.train = f"{builder.data_dir}:train[:90%]"
    config.data.eval = "tfds:tiny_videos:test"
    config.data.root = str(builder.data_path.parents[2])
    training = factory.open_split(config, tmp_path, "train")
    assert len(training) == 18
    assert len(factory.open_split(config, tmp_path, "eval", training.label_names)) == 5
    spec = importlib.util.spec_from_file_location("check_videos", CHECK_VIDEOS)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    output = tmp_path / "bad.csv"
    assert (
        script.run([f"{builder.data_dir}:test", "--processes", "1", "--output", str(output)]) == 0
    )
    assert "0 of 5 videos cannot be read" in capsys.readouterr().out


def test_lists_do_not_import_tfds(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    (tmp_path / "list.txt").write_text("a.mp4 0\n")
    program = """
import sys
from vswin_jax.data import open_source
assert len(open_source(sys.argv[1])) == 1
assert not {"tensorflow_datasets", "array_record", "tensorflow"} & set(sys.modules)
"""
    command = [sys.executable, "-c", program, str(tmp_path / "list.txt")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def _write_records(
    directory: Path,
    features: dict[str, F.FeatureConnector],
    examples: dict[str, list[dict[str, Any]]],
    file_format: str = "array_record",
) -> Path:
    """Write a data set with TFDS, one file a split."""
    directory.mkdir(parents=True)
    kinds = F.FeaturesDict(features)
    infos = []
    for split, rows in examples.items():
        template = tfds.core.ShardedFileTemplate(
            data_dir=directory, dataset_name="tiny", split=split, filetype_suffix=file_format
        )
        adapter = tfds.core.file_adapters.ADAPTER_FOR_FORMAT[tfds.core.FileFormat(file_format)]
        records = [(k, kinds.serialize_example(row)) for k, row in enumerate(rows)]
        adapter.write_examples(template.sharded_filepath(shard_index=0, num_shards=1), records)
        infos.append(tfds.core.SplitInfo(split, [len(rows)], 0, template))
    tfds.folder_dataset.write_metadata(
        data_dir=directory, features=kinds, split_infos=infos, check_data=False
    )
    return directory


BYTES = F.Tensor(shape=(), dtype=np.object_)


@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
def test_records_of_video_files(
    tmp_path: Path,
    write_video: Callable[..., Path],
    every_frame: Callable[[Path], np.ndarray],
    file_format: str,
) -> None:
    path = write_video()
    rows = [
        {"video": path.read_bytes(), "label": "run", "name": b"a/\xff.mp4"},
        {"video": b"torn", "label": "jump high", "name": b""},
    ]
    features = {"video": BYTES, "label": F.ClassLabel(names=CLASSES), "name": F.Text()}
    directory = _write_records(tmp_path / "records", features, {"val": rows}, file_format)
    source = open_source(f"{directory}:val", kind="tfds")
    with open_video(source[0].video) as video:
        np.testing.assert_array_equal(np.stack(list(video.frames())), every_frame(path))
    assert (source[0].name, source[1].name) == ("a/\udcff.mp4", "val/1")
    assert (source[0].label, source[1].label) == (1, 0)
    assert "'val/1' cannot be read as a video" in unreadable_reason(source[1])


def test_a_damaged_record_is_one_bad_example(tmp_path: Path) -> None:
    features = {"video": BYTES, "label": F.ClassLabel(names=CLASSES)}
    rows = [{"video": b"x" * 20, "label": 0}, {"video": b"y" * 20, "label": 1}]
    directory = _write_records(tmp_path / "records", features, {"train": rows}, "tfrecord")
    (path,) = directory.glob("*.tfrecord*")
    content = path.read_bytes()
    # The length of a record and its checksum are 12 bytes.
    path.write_bytes(content[:12] + b"\xff" * 20 + content[32:])
    source = open_source(f"{directory}:train")
    with pytest.raises(InputError, match="Record 0 of 'train' is damaged: copy its file again"):
        source[0]
    assert source[1].video == b"y" * 20


def test_times_of_images(tmp_path: Path) -> None:
    images = [cv2.imencode(".png", frame)[1].tobytes() for frame in _frames(0)]
    features = {
        "clip": F.FeaturesDict({"frames": F.Sequence({"image": F.Image(), "nr": np.int64})}),
        "label": F.ClassLabel(num_classes=3),
        "times": F.Sequence(np.float32),
        "fps": np.float32,
    }
    clip = {"frames": [{"image": image, "nr": k} for k, image in enumerate(images)]}
    rows = [
        {"clip": clip, "label": 2, "times": [0.0, 0.25, 1.0], "fps": 4.0},
        {"clip": clip, "label": 0, "times": [], "fps": 4.0},
        {"clip": clip, "label": 1, "times": [], "fps": 0.0},
        {"clip": {"frames": []}, "label": 1, "times": [], "fps": 4.0},
    ]
    source = open_source(f"{_write_records(tmp_path / 'r', features, {'train': rows})}:train")
    assert source.label_names == ("0", "1", "2")
    times = []
    for index in range(3):
        with open_video(source[index].video) as video:
            times.append(None if video.times is None else video.times.tolist())
            frame = cv2.cvtColor(video.decode([1])[0], cv2.COLOR_RGB2BGR)
            np.testing.assert_array_equal(frame, _frames(0)[1])
    assert times == [[0.0, 0.25, 1.0], [0.0, 0.25, 0.5], None]
    assert unreadable_reason(source[3]) == "'train/3' has no frames: take it off the list."


def test_labels_without_names(tmp_path: Path) -> None:
    rows = [{"video": b"x", "label": label} for label in (1, 0, 2, 2)]
    plain = _write_records(tmp_path / "a", {"video": BYTES, "label": np.int64}, {"train": rows})
    source = open_source(f"{plain}:train")
    assert source.label_names == ("0", "1", "2")
    assert source.labels.tolist() == [source[i].label for i in range(4)] == [1, 0, 2, 2]
    named = open_source(f"{plain}:train", label_names=("x", "y", "z"))
    assert (named.label_names, named[2].label) == (("x", "y", "z"), 2)
    assert "train/2: the label must be from 0 to 1 but is 2" in open_error(
        f"{plain}:train", num_classes=2
    )
    numbered = _write_records(
        tmp_path / "b", {"video": BYTES, "label": F.ClassLabel(num_classes=3)}, {"train": rows}
    )
    assert open_source(f"{numbered}:train", label_names=("x", "y", "z"))[0].label == 1
    assert "has 4 classes but" in open_error(f"{numbered}:train", label_names=("w", "x", "y", "z"))
    unlabelled = [{"video": b"x", "label": -1}]
    hidden = _write_records(
        tmp_path / "c", {"video": BYTES, "label": F.ClassLabel(names=CLASSES)}, {"test": unlabelled}
    )
    with pytest.raises(InputError, match="have a label from 0 to 1 but it is -1"):
        open_source(f"{hidden}:test")[0]


def test_stored_labels_are_used_instead_of_the_records(tmp_path: Path) -> None:
    rows = [{"video": b"x", "label": label} for label in (1, 0, 1)]
    features = {"video": BYTES, "label": F.ClassLabel(names=CLASSES)}
    directory = _write_records(tmp_path / "r", features, {"train": rows, "val": rows[:1]})
    # They differ from the labels in the records, so the test can tell which ones were used.
    np.save(directory / "labels-train.npy", np.array([0, 0, 1], np.int32))
    assert open_source(f"{directory}:train").labels.tolist() == [0, 0, 1]
    assert open_source(f"{directory}:train[1:]").labels.tolist() == [0, 1]
    assert open_source(f"{directory}:train", label_names=CLASSES[::-1]).labels.tolist() == [1, 1, 0]
    assert open_source(f"{directory}:val").labels.tolist() == [1]
    np.save(directory / "labels-train.npy", np.array([0, 0], np.int32))
    assert "the 3 labels of the records" in open_error(f"{directory}:train")
    (directory / "labels-train.npy").write_bytes(b"no array")
    assert "labels-train.npy' cannot be read" in open_error(f"{directory}:train")


def test_directories_and_splits_that_are_refused(tmp_path: Path) -> None:
    features = {"video": BYTES, "label": F.ClassLabel(names=CLASSES)}
    rows = [{"video": b"x", "label": 0}]
    directory = _write_records(tmp_path / "a:b", features, {"train": rows, "empty": []})
    assert len(open_source(f"{directory}:train")) == 1
    assert "add one of empty, train" in open_error(str(directory))
    assert "add one of empty, train" in open_error(f"{directory}:")
    assert "has no split 'val'" in open_error(f"{directory}:val")
    assert "'empty' of" in open_error(f"{directory}:empty")
    assert "with a DIRECTORY that holds dataset_info.json" in open_error(str(tmp_path), kind="tfds")
    (directory / "features.json").write_text("{")
    assert "cannot be opened as a TFDS data set" in open_error(f"{directory}:train")


def test_paths_are_parsed(tmp_path: Path) -> None:
    assert parse_tfds_path("tfds:a/b-1:1.2.*:train[:9%]+test") == TfdsPath(
        "a/b-1:1.2.*", "train[:9%]+test", is_directory=False
    )
    assert parse_tfds_path("tfds:a") == TfdsPath("a", "", is_directory=False)
    (tmp_path / "x:y").mkdir()
    (tmp_path / "x:y/dataset_info.json").touch()
    path = f"{tmp_path}/x:y:train[:5]"
    assert parse_tfds_path(path) == TfdsPath(f"{tmp_path}/x:y", "train[:5]", is_directory=True)


LABEL = F.ClassLabel(names=CLASSES)


@pytest.mark.parametrize(
    ("features", "video", "frames", "label"),
    [
        ({"video": BYTES, "label": LABEL, "height": np.int32}, "video", False, "label"),
        ({"video": F.Text(), "label": LABEL, "name": F.Text()}, "video", False, "label"),
        ({"mp4": BYTES, "caption": F.Text(), "action": LABEL}, "mp4", False, "action"),
        ({"video": F.Video(), "thumbnail": BYTES, "label": np.int64}, "video", True, "label"),
        ({"f": F.Sequence({"rgb": F.Image()}), "a": {"b": LABEL}}, "f/rgb", True, "a/b"),
        ({"video": BYTES, "label": LABEL, "verb": LABEL}, "video", False, "label"),
    ],
)
def test_features_that_are_chosen(
    features: dict[str, Any], video: str, frames: bool, label: str
) -> None:
    keys = find_keys(F.FeaturesDict(features), "here")
    assert (keys.video, keys.frames, keys.label) == (video, frames, label)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"image": F.Image(), "label": LABEL}, "a video (a tensor"),
        ({"a": BYTES, "b": F.Video(), "label": LABEL}, "b (sequence of Image)"),
        ({"video": BYTES, "label": F.Text()}, "label (Text)"),
        ({"video": BYTES, "verb": LABEL, "noun": LABEL}, "noun (ClassLabel)"),
        ({"video": F.Sequence(F.Video()), "label": LABEL}, "video (sequence of sequence of Image)"),
    ],
)
def test_features_that_are_refused(features: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        find_keys(F.FeaturesDict(features), "here")
    assert message in str(caught.value)
    assert "Expected 'here' to have" in str(caught.value)
