"""Random access to records: their content, the detection of damage, the limit on open files."""

import gc
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from array_record.python.array_record_module import ArrayRecordWriter

from vswin_jax.data.sources import record_files
from vswin_jax.data.sources.record_files import FileSlice, RecordFiles, record_offsets
from vswin_jax.errors import InputError

from .conftest import failures_in_threads


def _record(number: int) -> bytes:
    """Return a record of random bytes; record 0 is empty."""
    return np.random.default_rng(number).bytes(number * 977 % 5000)


def _write(path: Path, file_format: str, records: list[bytes]) -> FileSlice:
    if file_format == "tfrecord":
        with tf.io.TFRecordWriter(str(path)) as writer:
            for record in records:
                writer.write(record)
    else:
        writer = ArrayRecordWriter(str(path), "group_size:1")
        for record in records:
            writer.write(record)
        writer.close()
    return FileSlice(str(path), 0, len(records), len(records))


@pytest.fixture(params=record_files.FORMATS)
def file_format(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def slices(tmp_path: Path, file_format: str) -> list[FileSlice]:
    """Write twelve files of five records each, numbered from 0 to 59."""
    return [
        _write(tmp_path / f"{k:02d}", file_format, [_record(5 * k + i) for i in range(5)])
        for k in range(12)
    ]


def test_records_in_any_order(slices: list[FileSlice], file_format: str) -> None:
    files = RecordFiles(slices, file_format)
    assert len(files) == 60
    for index in np.random.default_rng(0).permutation(60).tolist():
        assert files.read(index) == _record(index)
    for outside in (-1, 60):
        with pytest.raises(IndexError):
            files.read(outside)


def test_slices_of_files(slices: list[FileSlice], file_format: str) -> None:
    parts = [FileSlice(slices[3].path, 2, 2, 5), FileSlice(slices[1].path, 0, 5, 5)]
    files = RecordFiles(parts, file_format)
    assert [files.read(i) for i in range(7)] == [_record(i) for i in (17, 18, 5, 6, 7, 8, 9)]


def test_threads_share_a_limited_number_of_open_files(
    slices: list[FileSlice], file_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_files, "_max_open_files", lambda: 3)
    files = RecordFiles(slices, file_format)
    assert not failures_in_threads(lambda index: files.read(index) == _record(index), 60, 300)
    gc.collect()
    assert _count_open_files(slices) == 3


def _count_open_files(slices: list[FileSlice]) -> int:
    folder = "/proc/self/fd"
    if not os.path.isdir(folder):
        pytest.skip("open files are counted in /proc")
    paths = {part.path for part in slices}
    targets = []
    for name in os.listdir(folder):
        try:
            targets.append(os.readlink(f"{folder}/{name}"))
        except OSError:
            continue
    return sum(target in paths for target in targets)


def test_pickling_while_files_are_open(slices: list[FileSlice], file_format: str) -> None:
    files = RecordFiles(slices, file_format)
    files.read(7)
    copy = pickle.loads(pickle.dumps(files))
    assert copy.read(7) == files.read(7) == _record(7)


@pytest.mark.parametrize("damage", ["cut short", "other length", "gone"])
def test_damaged_files_raise_an_input_error(
    slices: list[FileSlice], file_format: str, damage: str
) -> None:
    path = Path(slices[1].path)
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    elif damage == "cut short":
        path.write_bytes(content[: len(content) // 2])
    else:
        slices[1] = FileSlice(str(path), 0, 4, 4)
    files = RecordFiles(slices, file_format)
    assert files.read(0) == _record(0)
    with pytest.raises(InputError) as caught:
        files.read(6)
    message = str(caught.value)
    assert repr(str(path)) in message
    assert message.count(".") == str(path).count(".") + 1
    assert "not there" in message if damage == "gone" else "is damaged" in message


def test_a_changed_length_in_a_tfrecord_file_fails_its_checksum(tmp_path: Path) -> None:
    path = tmp_path / "records"
    _write(path, "tfrecord", [b"first", b"second"])
    content = bytearray(path.read_bytes())
    # 8 bytes of length and 4 of checksum before the payload, 4 of checksum after it: the second
    # record starts at byte 21.
    assert record_offsets(str(path), 2).tolist() == [0, 21, 43]
    content[21] += 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="no whole record starts at byte 21"):
        record_offsets(str(path), 2)


def test_a_changed_byte_in_an_array_record_file_is_detected(tmp_path: Path) -> None:
    path = tmp_path / "records"
    part = _write(path, "array_record", [np.random.default_rng(k).bytes(100_000) for k in (0, 1)])
    content = bytearray(path.read_bytes())
    content[70_000] ^= 255
    path.write_bytes(content)
    files = RecordFiles([part], "array_record")
    with pytest.raises(InputError, match=r"is damaged \(record 0: "):
        files.read(0)


def test_the_limit_of_the_process_bounds_the_open_files(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    for limit, expected in ((400, 100), (10**6, 1024), (1, 1), (resource.RLIM_INFINITY, 1024)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, limit=limit: (limit, limit))
        assert record_files._max_open_files() == expected
