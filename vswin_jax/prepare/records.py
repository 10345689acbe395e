"""Record shards in a directory that `tfds.builder_from_directory` opens, without this package.

Features: video, the bytes of an mp4 file (or a sequence of JPEG images, with `times` of each in
seconds); label; name; num_frames, fps, width and height.
"""

import functools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_module

from vswin_jax.prepare.encode import StoredVideo
from vswin_jax.prepare.options import PrepareOptions

DATASET = "videos"
FILE_FORMAT = "array_record"
VERSION = "1.0.0"
# Groups of one record make random access cheap; videos are compressed already.
_WRITER_OPTIONS = "group_size:1,uncompressed"
INFO_FILE = "dataset_info.json"  # written last: a directory that TFDS opens is complete


def shard_file(split: str, number: int, count: int) -> str:
    """Return the file name of a shard, in the naming scheme of TFDS."""
    return f"{DATASET}-{split}.{FILE_FORMAT}-{number:05d}-of-{count:05d}"


@functools.lru_cache(maxsize=4)
def features(store: str, label_names: tuple[str, ...]) -> tfds.features.FeaturesDict:
    """Return the features of a data set whose videos are stored as `mp4` or `jpeg`."""
    sizes = {name: tfds.features.Scalar(np.int32) for name in ("num_frames", "width", "height")}
    return tfds.features.FeaturesDict(
        {
            **_video_features(store),
            "label": tfds.features.ClassLabel(names=label_names),
            "name": tfds.features.Text(doc="the video in the source"),
            "fps": tfds.features.Scalar(np.float32, doc="frames a second on average"),
            **sizes,
        }
    )


def _video_features(store: str) -> dict[str, tfds.features.FeatureConnector]:
    if store == "mp4":
        doc = "the bytes of a video file"
        return {"video": tfds.features.Tensor(shape=(), dtype=np.object_, doc=doc)}
    # `tfds.features.Video` is the same sequence, but needs TensorFlow.
    image = tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg")
    return {
        "video": tfds.features.Sequence(image, doc="the frames"),
        "times": tfds.features.Sequence(np.float32, doc="seconds from the first frame"),
    }


def serialize(
    stored: StoredVideo,
    label: int,
    name: str,
    options: PrepareOptions,
    label_names: tuple[str, ...],
) -> bytes:
    """Serialize a video as a record, with the same bytes each time."""
    schema = features(options.store, label_names)
    example = _example(stored, label, name)
    if "times" in schema:
        example["times"] = stored.times.astype(np.float32)
    serializer = tfds.core.ExampleSerializer(schema.get_serialized_info())
    message = serializer.get_tf_example(schema.encode_example(example))
    # `serialize_example` does not fix the order of the fields.
    return message.SerializeToString(deterministic=True)


def _example(stored: StoredVideo, label: int, name: str) -> dict[str, Any]:
    return {
        "video": stored.content,
        "label": label,
        "name": name.encode("utf-8", "surrogateescape"),
        "num_frames": len(stored.times),
        "fps": stored.fps,
        "width": stored.width,
        "height": stored.height,
    }


def write_shard(path: str | os.PathLike[str], records: Iterable[bytes]) -> None:
    """Write an ArrayRecord file, with the same bytes each time."""
    writer = array_record_module.ArrayRecordWriter(os.fspath(path), _WRITER_OPTIONS)
    for record in records:
        writer.write(record)
    writer.close()


def read_shard(path: str | os.PathLike[str]) -> Iterator[bytes]:
    """Yield the records of a shard."""
    reader = array_record_module.ArrayRecordReader(os.fspath(path))
    return (reader.read([position])[0] for position in range(reader.num_records()))


def write_metadata(
    directory: Path,
    staging: Path,
    options: PrepareOptions,
    label_names: tuple[str, ...],
    shard_lengths: Mapping[str, Sequence[int]],
) -> None:
    """Write the metadata that TFDS reads beside the shards, `INFO_FILE` last.

    TFDS writes its files to `staging`, an empty folder, from which they are renamed one by one.
    `shard_lengths` are the numbers of records in the shards of every split.
    """
    identity = tfds.core.DatasetIdentity(
        name=DATASET, version=tfds.core.Version(VERSION), data_dir=str(directory), module_name=""
    )
    info = tfds.core.DatasetInfo(
        builder=identity,
        description="Videos that were prepared for training a Video Swin Transformer.",
        features=features(options.store, label_names),
    )
    info.set_file_format(tfds.core.FileFormat(FILE_FORMAT))
    splits = [_split_info(directory, name, lengths) for name, lengths in shard_lengths.items()]
    info.set_splits(tfds.core.SplitDict(splits))
    info.write_to_directory(staging)
    names = sorted(os.listdir(staging), key=lambda name: (name == INFO_FILE, name))
    for name in names:
        os.replace(staging / name, directory / name)


def _split_info(directory: Path, name: str, lengths: Sequence[int]) -> tfds.core.SplitInfo:
    template = tfds.core.ShardedFileTemplate(
        data_dir=directory, dataset_name=DATASET, split=name, filetype_suffix=FILE_FORMAT
    )
    shards = (shard_file(name, number, len(lengths)) for number in range(len(lengths)))
    return tfds.core.SplitInfo(
        name=name,
        shard_lengths=list(lengths),
        num_bytes=sum(os.path.getsize(directory / shard) for shard in shards),
        filename_template=template,
    )
