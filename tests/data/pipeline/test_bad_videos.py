import csv
import itertools
import logging
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from vswin_jax.data.example import Example
from vswin_jax.data.pipeline.bad_video_table import BadVideoTable
from vswin_jax.data.pipeline.bad_videos import (
    MAX_REPLACEMENTS,
    BadVideos,
    candidates,
    read_or_replace,
)
from vswin_jax.data.pipeline.sampler import SamplerState, example_rng
from vswin_jax.data.pipeline.video_check import unreadable_reason
from vswin_jax.errors import InputError

WriteVideo = Callable[..., Path]


class Numbers:
    """A source whose example `i` is named "i"."""

    label_names = ("a",)
    multi_label = False

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> Example:
        return Example(str(index), 0, index, str(index))


def _rows(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.reader(file))


def _indices(*arguments: int) -> list[int]:
    return [index for index, _ in candidates(*arguments)]


def test_replacements_never_change() -> None:
    # A run that is resumed with a newer version must read the same examples.
    assert _indices(3, 1, 4, 1000)[:6] == [4, 905, 727, 378, 488, 816]


def test_replacements_are_a_function_of_seed_epoch_and_example() -> None:
    assert _indices(3, 1, 4, 1000) == _indices(3, 1, 4, 1000)
    for other in ((4, 1, 4, 1000), (3, 2, 4, 1000), (3, 1, 5, 1000)):
        assert _indices(*other)[1:] != _indices(3, 1, 4, 1000)[1:]


def test_every_occurrence_of_an_example_has_its_own_replacements() -> None:
    drawn = [list(candidates(3, 1, 4, 1000, occurrence=occurrence)) for occurrence in range(3)]
    assert [index for index, _ in drawn[0]] == _indices(3, 1, 4, 1000)
    assert len({tuple(index for index, _ in pairs) for pairs in drawn}) == 3
    assert len({rng.random() for pairs in drawn for _, rng in pairs}) == sum(map(len, drawn))


@pytest.mark.parametrize("size", [1, 2, 3, 50, 10**6])
def test_replacements_are_other_examples_and_bounded(size: int) -> None:
    for index in (0, size - 1):
        drawn = _indices(0, 0, index, size)
        assert drawn[0] == index
        assert len(set(drawn)) == len(drawn) <= 1 + MAX_REPLACEMENTS
        assert set(drawn) <= set(range(size))
    assert len(_indices(0, 0, 0, size)) >= min(size, 3)


def test_all_examples_are_equally_likely_replacements() -> None:
    counts = np.bincount([_indices(0, epoch, 2, 5)[1] for epoch in range(400)], minlength=5)
    assert counts[2] == 0
    assert (counts[[0, 1, 3, 4]] > 60).all()  # 100 expected, 9 the standard deviation


def test_an_example_keeps_its_generator_and_a_replacement_has_another() -> None:
    (first, first_rng), (other, other_rng) = itertools.islice(candidates(5, 2, 7, 30), 2)
    expected = example_rng(5, 2, first)
    np.testing.assert_array_equal(first_rng.random(8), expected.random(8))
    assert other_rng.random() not in (example_rng(5, 2, other).random(), expected.random())


def _read_unless(bad: set[int]) -> Callable[[Example, np.random.Generator], float]:
    def read(example: Example, rng: np.random.Generator) -> float:
        if example.id in bad:
            raise InputError(f"{example.name!r} is torn.")
        return float(rng.random())

    return read


def _read(index: int, size: int, bad: set[int], counts: BadVideos) -> tuple[Example, float]:
    state = SamplerState(epoch=2, example=index, occurrence=0)
    return read_or_replace(_read_unless(bad), Numbers(size), state, counts, seed=1, step=9)


def test_the_first_good_candidate_is_read(tmp_path: Path) -> None:
    drawn = [(index, rng.random()) for index, rng in candidates(1, 2, 5, 100)]
    counts = BadVideos(tmp_path / "run" / "bad_videos.csv", 1.0)
    bad = {index for index, _ in drawn[:3]}
    example, clip = _read(5, 100, bad, counts)
    assert (example.id, clip) == drawn[3]
    assert (counts.reads, counts.bad) == (4, 3)
    header, *rows = _rows(tmp_path / "run" / "bad_videos.csv")
    assert header == ["path", "reason", "step", "epoch"]
    assert rows == [[str(i), f"'{i}' is torn.", "10", "3"] for i, _ in drawn[:3]]


@pytest.mark.parametrize(("size", "tried"), [(1, 1), (2, 2), (1000, 1 + MAX_REPLACEMENTS)])
def test_no_candidate_can_be_read(size: int, tried: int) -> None:
    with pytest.raises(InputError, match=f"None of {tried} videos .* is torn.$"):
        _read(0, size, set(range(size)), BadVideos(max_fraction=1.0))


def test_a_record_that_cannot_be_read_is_replaced(tmp_path: Path) -> None:
    class DamagedRecords(Numbers):
        def __getitem__(self, index: int) -> Example:
            if index in bad:
                raise InputError(f"record {index} is cut short.")
            return super().__getitem__(index)

    drawn = [index for index, _ in candidates(1, 2, 5, 100)]
    bad = set(drawn[:2])
    counts = BadVideos(tmp_path / "bad_videos.csv", 1.0)
    state = SamplerState(epoch=2, example=5, occurrence=0)
    read = _read_unless(set())
    example, _ = read_or_replace(read, DamagedRecords(100), state, counts, seed=1, step=9)
    assert example.id == drawn[2]
    assert _rows(tmp_path / "bad_videos.csv")[1:] == [
        [f"example {index}", f"record {index} is cut short.", "10", "3"] for index in drawn[:2]
    ]


def _count(counts: BadVideos, reads: int, bad_of_100: int) -> int:
    """Return the number of `reads`, with evenly spread bad ones, up to the one that is refused."""
    for read in range(reads):
        if (read + 1) * bad_of_100 // 100 == read * bad_of_100 // 100:
            counts.count_good()
            continue
        try:
            counts.count_bad(f"{read}.mp4", f"'{read}.mp4' is torn.", step=1, epoch=1)
        except InputError:
            return read + 1
    return reads


@pytest.mark.parametrize(
    ("limit", "bad_of_100", "stops_at"),
    [
        (0.05, 100, 20),  # the fewest that are judged
        (0.05, 60, 20),
        (0.05, 5, None),
        # 0.05 n > 4 sqrt(0.05 * 0.95 n) when n > 304; the bad ones are every tenth.
        (0.05, 10, 310),
        (0.5, 60, 405),  # 0.1 n > 4 sqrt(0.25 n) when n > 400
        (0.5, 40, None),
        (0.0, 1, 100),
        (1.0, 100, None),
    ],
)
def test_limit_that_stops_a_run(limit: float, bad_of_100: int, stops_at: int | None) -> None:
    reads = 1500
    assert _count(BadVideos(max_fraction=limit), reads, bad_of_100) == (stops_at or reads)


def test_one_bad_video_of_a_small_set_ends_no_run() -> None:
    """It is a tenth of the reads of ten videos, however long the run is."""
    counts = BadVideos(max_fraction=0.05)
    for read in range(1000):
        if read % 10:
            counts.count_good()
        else:
            counts.count_bad("x.mp4", "'x.mp4' is torn.", step=1, epoch=1)
    assert (counts.bad, counts.reads) == (100, 1000)
    with pytest.raises(InputError, match=r"101 of 1001 reads"):
        counts.count_bad("y.mp4", "'y.mp4' is torn.", step=1, epoch=1)


def test_message_of_too_many_bad_videos(tmp_path: Path) -> None:
    counts = BadVideos(tmp_path / "bad_videos.csv")
    for number in range(19):
        counts.count_bad(f"{number}.mp4", f"'{number}.mp4' is torn.", step=1, epoch=1)
    with pytest.raises(InputError) as caught:
        counts.count_bad("19.mp4", "'19.mp4' is torn.", step=1, epoch=1)
    message = str(caught.value)
    assert message.startswith("20 of 20 reads (100.0%) met a video that cannot be read, more than")
    assert "max_bad_fraction (0.05)" in message
    assert counts.summary().endswith(f"see {tmp_path / 'bad_videos.csv'}")
    assert message.endswith(
        "check_videos.py and repair them, or raise the limit; the last error was: '19.mp4' is torn."
    )


def test_a_video_is_listed_and_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "bad_videos.csv"
    with caplog.at_level(logging.WARNING, "vswin_jax"):
        first = BadVideos(path, 1.0)
        for step in (4, 8):
            first.count_bad("a.mp4", "a is torn.", step=step, epoch=1)
    assert [record.getMessage() for record in caplog.records] == [
        "step 4: a video is replaced by another one: a is torn."
    ]
    other_host, restarted = BadVideos(path, 1.0), BadVideos(path, 1.0)
    other_host.count_bad("b.mp4", "b is torn.", step=5, epoch=1)
    first.count_bad("b.mp4", "b is torn.", step=6, epoch=1)
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        restarted.count_bad(name, "it is torn.", step=9, epoch=2)
    assert [(row[0], row[2]) for row in _rows(path)[1:]] == [
        ("a.mp4", "4"),
        ("b.mp4", "5"),
        ("c.mp4", "9"),
    ]


@pytest.mark.parametrize("lost", [1, 5, 14, 30])
def test_a_row_that_a_kill_cut_off_is_written_again(tmp_path: Path, lost: int) -> None:
    path = tmp_path / "bad_videos.csv"
    for name in ("a", "b"):
        BadVideoTable(path).add(name, "it is torn", 1, 1)
    whole = path.read_bytes()
    path.write_bytes(whole[:-lost])
    again = BadVideoTable(path)
    for name in ("a", "b"):
        again.add(name, "it is torn", 1, 1)
    assert path.read_bytes() == whole


@pytest.mark.parametrize("name", ['a, "b".mp4', "two\nlines.mp4", "\udcff.mp4", "x\u2028y.mp4"])
def test_odd_names_are_one_row(tmp_path: Path, name: str) -> None:
    path = tmp_path / "bad_videos.csv"
    for _ in range(2):
        BadVideoTable(path).add(name, "two\nlines", 1, 1)
    assert _rows(path)[1:] == [[name.replace("\n", "\\n"), "two\\nlines", "1", "1"]]


def _example(path: Path) -> Example:
    return Example(str(path), 0, 0, path.name)


def test_an_unknown_codec(tmp_path: Path, write_video: WriteVideo) -> None:
    good = write_video("good.mp4", 3)
    odd = tmp_path / "odd.mp4"
    odd.write_bytes(good.read_bytes().replace(b"avc1", b"zzzz"))
    assert "odd.mp4' is stored with a codec that cannot be decoded" in unreadable_reason(
        _example(odd)
    )
    assert unreadable_reason(_example(good)) == ""


def test_other_exceptions_do_not_count_as_bad_videos(write_video: WriteVideo) -> None:
    class OneVideo(Numbers):
        def __getitem__(self, index: int) -> Example:
            return _example(path)

    def read(example: Example, rng: np.random.Generator) -> None:
        rng.no_such_draw()

    path = write_video("good.mp4", 3)
    counts = BadVideos()
    state = SamplerState(epoch=0, example=0, occurrence=0)
    with pytest.raises(AttributeError, match="no_such_draw"):
        read_or_replace(read, OneVideo(3), state, counts, seed=0, step=0)
    assert counts.bad == 0


def test_damage_in_the_middle_or_at_the_end_is_found(
    tmp_path: Path, write_video: WriteVideo
) -> None:
    """Damage single frames of a video in which every frame is a keyframe."""
    path = write_video("whole.mp4", 9, g="1", bf="0")
    whole = path.read_bytes()
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    for position, size in (packets[4], packets[-1]):
        path.write_bytes(whole[:position] + b"\xff" * size + whole[position + size :])
        assert "whole.mp4" in unreadable_reason(_example(path)), position


def test_one_frame_and_uneven_frame_times_are_fine(tmp_path: Path, write_video: WriteVideo) -> None:
    assert unreadable_reason(_example(write_video("one.mp4", 1))) == ""
    path = tmp_path / "uneven.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=12)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for time in (0, 40, 200, 230, 900):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), time % 256, np.uint8))
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert unreadable_reason(_example(path)) == ""
