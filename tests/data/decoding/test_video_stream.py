from collections.abc import Sequence
from pathlib import Path

import av
import pytest
from coded_pictures import VIDEOS, read_index, write_pictures

from vswin_jax.data.decoding.video_stream import decode_stream, read_packets, video_stream


def _chosen(path: Path) -> int | None:
    with av.open(str(path)) as container:
        stream = video_stream(container)
        return None if stream is None else stream.index


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("plain.mp4", 0),
        ("cover_stream0.mp4", 1),
        ("thumb_track_first.mov", 1),
        ("song_with_cover.m4a", None),
    ],
)
def test_the_film_is_chosen(name: str, index: int | None) -> None:
    assert _chosen(VIDEOS / name) == index


def _join_tracks(sources: Sequence[Path], target: Path, dispositions: Sequence[int]) -> Path:
    with av.open(str(target), "w") as new:
        packets = []
        for source, disposition in zip(sources, dispositions, strict=True):
            with av.open(str(source)) as old:
                stream = new.add_stream_from_template(old.streams.video[0])
                stream.disposition = disposition
                for packet in old.demux(video=0):
                    if packet.size:
                        packet.stream = stream
                        packets.append(packet)
        for packet in packets:
            new.mux(packet)
    return target


DEFAULT, PICTURE = av.stream.Disposition.default, av.stream.Disposition.attached_pic


@pytest.mark.parametrize("container", ["mp4", "mkv", "mov"])
def test_a_film_among_pictures_and_other_films(container: str, tmp_path: Path) -> None:
    film = write_pictures(tmp_path / "film.mp4", range(12))
    image = write_pictures(tmp_path / "image.mp4", [40], "mjpeg", strict="-1")
    two = [film, film], [image, film], [film, image]
    path = tmp_path / f"two.{container}"
    assert [_chosen(_join_tracks(tracks, path, [DEFAULT] * 2)) for tracks in two] == [0, 1, 0]
    assert _chosen(_join_tracks([image, film], path, [0, DEFAULT])) == 1
    assert _chosen(_join_tracks([film, film], path, [0, DEFAULT])) == 1


def test_a_cover_that_is_marked_as_default(tmp_path: Path) -> None:
    film = write_pictures(tmp_path / "film.mp4", range(12))
    image = write_pictures(tmp_path / "image.mp4", [40], "mjpeg", strict="-1")
    path = _join_tracks([image, film], tmp_path / "both.mkv", [DEFAULT, 0])
    with av.open(str(path)) as container:
        cover = container.streams[0]
        cover.disposition = DEFAULT | PICTURE
        assert video_stream(container) == container.streams[1]
    with av.open(str(image)) as container:
        container.streams[0].disposition = PICTURE
        assert video_stream(container) is None


def test_empty_packets_are_left_out(tmp_path: Path) -> None:
    times = [0, 1, 2, 7, 8]
    path = write_pictures(tmp_path / "gap.avi", range(5), "mpeg4", times)
    with av.open(str(path)) as container:
        packets = list(read_packets(container, container.streams.video[0]))
        assert len(packets) == 5
        assert all(packet.size for packet in packets)
    with av.open(str(path)) as container:
        frames = decode_stream(container, container.streams.video[0])
        assert [read_index(frame.to_ndarray(format="rgb24")) for frame in frames] == [0, 1, 2, 3, 4]


def _damage(path: Path, position: int) -> Path:
    """Replace the content of the packet at a position by bytes that no decoder accepts."""
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packet = list(read_packets(container, container.streams.video[0]))[position]
    data[packet.pos : packet.pos + packet.size] = b"\xff" * packet.size
    path.write_bytes(data)
    return path


def test_damaged_packets_before_the_first_frame_are_left_out(tmp_path: Path) -> None:
    path = _damage(write_pictures(tmp_path / "video.mov", range(6), "mpeg4", g="2"), 0)
    with av.open(str(path)) as container:
        frames = decode_stream(container, container.streams.video[0])
        shown = [read_index(frame.to_ndarray(format="rgb24")) for frame in frames]
    assert shown[-4:] == [2, 3, 4, 5]


def test_later_damaged_packets_are_errors(tmp_path: Path) -> None:
    path = _damage(write_pictures(tmp_path / "video.mov", range(6), "mpeg4", g="2"), 2)
    with av.open(str(path)) as container, pytest.raises(av.InvalidDataError):
        list(decode_stream(container, container.streams.video[0]))


def test_a_stream_without_any_frame_that_can_be_decoded(tmp_path: Path) -> None:
    path = _damage(write_pictures(tmp_path / "video.mov", range(1), "mpeg4"), 0)
    with av.open(str(path)) as container, pytest.raises(av.InvalidDataError):
        list(decode_stream(container, container.streams.video[0]))
