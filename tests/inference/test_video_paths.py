"""Files, folders of frames and folders of videos that paths name."""

import os
from pathlib import Path

import pytest

from vswin_jax.data.decoding.frames import FrameFolder
from vswin_jax.errors import InputError
from vswin_jax.inference.video_paths import FoundVideo, find_videos


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    names = (
        *("run/a, b: c.mp4", "run/A.MKV", "run/notes.txt", "run/.hidden.mp4", "jump/-x.webm"),
        *("frames/one/img_00001.jpg", "frames/one/img_00002.jpg", "frames/one/flow/x_1.jpg"),
        *("frames/two/1.png", "title1.png", "photos/cat.txt", "run/thumbnails/img_1.jpg"),
        # Network disks and macOS add such folders.
        *("@eaDir/A.MKV/thumbnail_1.jpg", "__MACOSX/run/A.MKV"),
    )
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def _found(path: Path, root: Path) -> list[str]:
    """Return the found paths relative to `root`; those of folders of frames end in a slash."""
    videos = find_videos(path)
    for video in videos:
        expected = video.path if isinstance(video.video, str) else FrameFolder(video.path)
        assert video.video == expected
    return [
        os.path.relpath(video.path, root) + ("" if isinstance(video.video, str) else "/")
        for video in videos
    ]


def test_all_videos_of_a_folder(folder: Path) -> None:
    assert _found(folder, folder) == [
        "frames/one/",
        "frames/two/",
        "jump/-x.webm",
        "run/A.MKV",
        "run/a, b: c.mp4",
        "run/thumbnails/",
    ]
    assert _found(folder / "frames" / "one", folder) == ["frames/one/"]


def test_a_file_that_is_named_is_a_video_whatever_its_suffix_is(folder: Path) -> None:
    path = folder / "run" / "notes.txt"
    assert find_videos(path) == find_videos(str(path)) == [FoundVideo(str(path), str(path))]


def test_a_link_to_a_parent_is_not_followed_forever(folder: Path) -> None:
    (folder / "jump" / "up").symlink_to(folder, target_is_directory=True)
    (folder / "linked").symlink_to(folder / "run", target_is_directory=True)
    found = _found(folder, folder)
    assert "linked/A.MKV" in found
    assert found.count("jump/-x.webm") == 1


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9\n.mp4")
    (tmp_path / name).touch()
    assert _found(tmp_path, tmp_path) == [name]


def test_paths_without_videos(folder: Path) -> None:
    os.mkfifo(folder / "pipe.mp4")
    for name, words in (
        ("nothing.mp4", "There is no video file at '.*nothing.mp4': correct the path"),
        ("pipe.mp4", "There is no video file at '.*pipe.mp4': correct the path"),
        ("photos", "photos' holds neither video files nor numbered images such as img_00001.jpg"),
    ):
        with pytest.raises(InputError, match=words):
            find_videos(folder / name)
