"""Shards and their metadata, read with TFDS alone."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

from vswin_jax.prepare import records
from vswin_jax.prepare.encode import StoredVideo
from vswin_jax.prepare.options import PrepareOptions

CLASSES = ("jump high", "run")
STORED = StoredVideo(b"\0mp4\0", np.array([0.0, 0.5, 2.0]), 64, 48)


def _record(label: int = 1, name: str = "a.mp4") -> bytes:
    return records.serialize(STORED, label, name, PrepareOptions(), CLASSES)


def test_tfds_reads_the_written_records(tmp_path: Path) -> None:
    (tmp_path / "staging").mkdir()
    contents = {
        "train": [[_record(0), _record(1, "\udcff/é")], [], [_record(1)]],
        "val": [[_record()]],
    }
    for split, shards in contents.items():
        for number, shard in enumerate(shards):
            path = tmp_path / records.shard_file(split, number, len(shards))
            records.write_shard(path, shard)
            assert list(records.read_shard(path)) == shard
    lengths = {split: [len(shard) for shard in shards] for split, shards in contents.items()}
    records.write_metadata(tmp_path, tmp_path / "staging", PrepareOptions(), CLASSES, lengths)
    builder = tfds.builder_from_directory(tmp_path)
    assert builder.info.features["label"].names == list(CLASSES)
    assert builder.info.splits["train"].shard_lengths == [2, 0, 1]
    train = builder.as_data_source("train")
    assert [example["label"] for example in train] == [0, 1, 1]
    assert train[1] == {
        "video": b"\0mp4\0",
        "label": 1,
        "name": b"\xff/\xc3\xa9",
        "num_frames": 3,
        "fps": 1.0,
        "width": 64,
        "height": 48,
    }
    assert len(builder.as_data_source("val")) == 1
    assert not list((tmp_path / "staging").iterdir())


def test_the_order_of_the_fields_is_fixed() -> None:
    message = tf_example_pb2.Example.FromString(_record())
    assert message.SerializeToString(deterministic=True) == _record()


def test_images_have_the_format_of_a_tfds_video(tmp_path: Path) -> None:
    image = tfds.features.Image(encoding_format="jpeg").encode_example(
        np.full((4, 6, 3), 90, np.uint8)
    )
    stored = StoredVideo([image, image], np.array([0.0, 0.5]), 6, 4)
    record = records.serialize(stored, 0, "a", PrepareOptions(store="jpeg"), CLASSES)
    read = records.features("jpeg", CLASSES).deserialize_example_np(record)
    assert np.stack(read["video"]).tolist() == np.full((2, 4, 6, 3), 90).tolist()
    assert list(read["times"]) == [0.0, 0.5]
    video = tfds.features.FeaturesDict({"video": tfds.features.Video(encoding_format="jpeg")})
    by_tfds = video.deserialize_example(record)["video"].numpy()
    assert by_tfds.tolist() == np.full((2, 4, 6, 3), 90).tolist()


def test_shard_files_have_the_names_that_tfds_expects() -> None:
    template = tfds.core.ShardedFileTemplate(
        data_dir="", dataset_name="videos", split="train", filetype_suffix="array_record"
    )
    assert (
        records.shard_file("train", 3, 12)
        == template.sharded_filepath(shard_index=3, num_shards=12).name
    )


def test_a_label_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="greater than configured"):
        _record(label=2)
