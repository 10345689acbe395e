"""Folders with a sub-folder for each class."""

import logging
import os
import unicodedata
from pathlib import Path

import av
import numpy as np
import pytest

from vswin_jax.data import FrameFolder, open_source, open_video
from vswin_jax.data.sources.folders import VIDEO_SUFFIXES, has_frame_folders

from .conftest import open_error, touch

NFC, NFD = (unicodedata.normalize(form, "fünf") for form in ("NFC", "NFD"))
BRIGHTNESS = (30, 90, 150, 210)  # of the frames of each file
# Containers and streams that PyAV can write: codec, suffixes, muxer (by default by suffix).
CONTAINERS = [
    ("mpeg4", ".mp4 .m4v .mkv .avi .nut .MP4", ""),
    ("mpeg4", ".mov .qt .mj2 .f4v .ismv", "mov"),
    ("mpeg4", ".3gp .3g2", "3gp"),
    ("mpeg4", ".divx", "avi"),
    ("mpeg4", ".mk3d", "matroska"),
    ("wmv2", ".asf .wmv .wm", "asf"),
    ("flv", ".flv .swf", ""),
    ("mpeg2video", ".ts .MTS .m2ts .m2t .tp .trp", "mpegts"),
    ("mpeg2video", ".vob .VOB .vro .evo .mod .tod", "vob"),
    ("mpeg1video", ".mpg .mpeg .mpe", "mpeg"),
    ("mpeg1video", ".m1v", "mpeg1video"),
    ("mpeg2video", ".m2v .mp2v", "mpeg2video"),
    ("mpeg2video", ".mxf .wtv", ""),
    ("libvpx", ".webm .ivf", ""),
    ("libvpx", ".ogv .ogm .ogx", "ogg"),
    ("rv10", ".rm", ""),
    ("libx264", ".h264 .264 .avc", "h264"),
    ("mjpeg", ".mjpeg .mjpg", "mjpeg"),
    ("rawvideo", ".y4m", "yuv4mpegpipe"),
    ("gif", ".gif", ""),
    ("apng", ".apng", ""),
]
PIXEL_FORMATS = {"gif": "rgb8", "apng": "rgb24", "mjpeg": "yuvj420p"}


def _write(path: Path, codec: str, muxer: str) -> None:
    # FFmpeg recognises an MPEG-TS by a number of packets, which plain pictures would not fill.
    noise = np.random.default_rng(0).integers(-20, 21, (48, 64, 3))
    with av.open(str(path), "w", format=muxer or None) as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.bit_rate = 64, 48, 1_000_000
        stream.pix_fmt = PIXEL_FORMATS.get(codec, "yuv420p")
        for brightness in BRIGHTNESS:
            frame = av.VideoFrame.from_ndarray((brightness + noise).astype(np.uint8), "rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def test_every_container_that_can_be_written_is_found_and_decoded(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    for codec, suffixes, muxer in CONTAINERS:
        for suffix in suffixes.split():
            _write(tmp_path / "run" / f"{codec}{suffix}", codec, muxer)
    written = sorted(entry.name for entry in (tmp_path / "run").iterdir())
    source = open_source(tmp_path)
    examples = [source[index] for index in range(len(source))]
    assert [example.name for example in examples] == [f"run/{name}" for name in written]
    assert len(written) == sum(len(suffixes.split()) for _, suffixes, _ in CONTAINERS)
    for example in examples:
        means = [frame.mean() for frame in open_video(example.video).frames()]
        # GIF has 8 levels of red and green and 4 of blue.
        assert means == pytest.approx(BRIGHTNESS, abs=20), example.name


@pytest.mark.parametrize("name", ["avi", "flv", "matroska", "mov", "h264", "hevc", "dhav", "mjpeg"])
def test_suffixes_that_ffmpeg_gives_to_a_demuxer_are_those_of_videos(name: str) -> None:
    suffixes = {f".{suffix}" for suffix in av.ContainerFormat(name, "r").extensions}
    sound = {".m4a", ".m4b", ".mka", ".isma"}
    others = {".mks", ".avif", ".heic", ".heif", ".mpo", ".psp", ".ism"}
    assert suffixes - sound - others
    assert suffixes - sound - others <= set(VIDEO_SUFFIXES)


def test_files_that_hold_no_video_have_no_video_suffix() -> None:
    """Sound, subtitles, images (which are frames), text, and downloads that did not end."""
    others = ".mp3 .m4a .mka .wav .ogg .srt .vtt .idx .sub .jpg .png .webp .txt .nfo .json .part"
    assert not set(others.split()) & set(VIDEO_SUFFIXES)
    assert len(set(VIDEO_SUFFIXES)) == len(VIDEO_SUFFIXES)
    assert all(suffix == suffix.lower() for suffix in VIDEO_SUFFIXES)


def test_what_is_left_out_is_logged_in_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    touch(tmp_path, "run/a.mp4", "run/a.srt", "run/b.srt", "run/clip", "run/b.mp4.part", "top.mp4")
    touch(tmp_path, "jump/c.MTS", "jump/part2/d.mp4")
    source = open_source(tmp_path)
    assert [source[index].name for index in range(len(source))] == ["jump/c.MTS", "run/a.mp4"]
    (message,) = caplog.messages
    assert message == (
        f"6 files and folders in {str(tmp_path)!r} are left out, as only files with a video's "
        "suffix in class folders are videos: .srt: 2 ('run/a.srt'), .mp4: 1 ('top.mp4'), "
        "folders: 1 ('jump/part2/'), .part: 1 ('run/b.mp4.part'), without a suffix: 1 ('run/clip')"
    )


def test_hidden_files_and_those_of_systems_are_left_out_silently(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    touch(tmp_path, "run/a.mp4", "run/._a.mp4", "run/Thumbs.db", "run/@eaDir/a.jpg", "desktop.ini")
    touch(tmp_path, "__MACOSX/run/._a.mp4", "lost+found/b.mp4", ".cache/x.mp4", "run/.DS_Store")
    source = open_source(tmp_path)
    assert source.label_names == ("run",)
    assert len(source) == 1
    assert not caplog.records


def test_links_to_files_and_folders_are_followed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    touch(tmp_path, "store/a.mp4", "set/run/b.mp4")
    (tmp_path / "set/run/a.mp4").symlink_to(tmp_path / "store/a.mp4")
    (tmp_path / "set/run/gone.mp4").symlink_to(tmp_path / "gone.mp4")
    (tmp_path / "set/jump").symlink_to(tmp_path / "store")
    (tmp_path / "set/loop").symlink_to(tmp_path / "set/loop")
    source = open_source(tmp_path / "set")
    names = [source[index].name for index in range(len(source))]
    # Reading a link to nothing fails, so that its video is listed as a bad one.
    assert names == ["jump/a.mp4", "run/a.mp4", "run/b.mp4", "run/gone.mp4"]
    assert "without a suffix: 1 ('loop')" in caplog.text


def test_a_class_without_videos_is_refused_with_what_it_has(tmp_path: Path) -> None:
    touch(tmp_path, "run/a.mp4", "jump/a.xyz", "jump/part2/b.mp4")
    message = open_error(tmp_path)
    assert "The class 'jump' has no videos" in message
    assert "but has 'a.xyz', 'part2/'; add some or remove the folder" in message


def test_class_names_in_two_forms_of_unicode_are_one_class(tmp_path: Path) -> None:
    """The files keep the names that the file system has."""
    touch(tmp_path, f"train/{NFD}/a.mp4", "train/run/b.mp4", f"val/{NFC}/c.mp4", "val/run /d.mp4")
    train = open_source(tmp_path / "train")
    assert train.label_names == (NFC, "run")
    assert [train[0].name, train[0].label] == [f"{NFD}/a.mp4", 0]
    assert os.path.exists(train[0].video)
    held_out = open_source(tmp_path / "val", label_names=train.label_names)
    assert [held_out[index].label for index in (0, 1)] == [0, 1]
    # A checkpoint of an older version has the names as they were written then.
    older = open_source(tmp_path / "val", label_names=[NFD, "run"])
    assert older.label_names == (NFD, "run")
    assert older.labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["run/1/001.jpg", "run/2/001.jpg"], True),
        (["run/1.mp4", "run/2.mp4"], False),
        (["jump/_notes/a.txt", "jump/2/001.jpg", "run/1/001.jpg"], True),
        (["jump/1.mp4", "jump/2.mp4", "jump/thumbnails/1.jpg", "run/3.mp4"], False),
        (["jump/preview.mp4", "jump/1/001.jpg", "jump/2/001.jpg", "run/3/001.jpg"], True),
        (["empty/notes.txt", "run/1/001.jpg"], True),
        (["jump/part1/1.mp4", "run/2.mp4"], False),
        (["jump/1.jpg", "jump/2.jpg"], False),
    ],
)
def test_detection_of_folders_of_frames(tmp_path: Path, files: list[str], expected: bool) -> None:
    touch(tmp_path, *files)
    assert has_frame_folders(str(tmp_path)) is expected


def test_files_beside_folders_of_frames_are_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    touch(tmp_path, "run/1/001.jpg", "run/2/001.jpg", "run/preview.mp4")
    with caplog.at_level(logging.WARNING, "vswin_jax"):
        source = open_source(tmp_path)
    assert [source[index].video for index in range(len(source))] == [
        FrameFolder(str(tmp_path / f"run/{name}")) for name in "12"
    ]
    assert "only folders of images in class folders are videos: .mp4: 1 ('run/pr" in caplog.text
