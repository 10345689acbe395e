"""Files from the network: FFmpeg reads them, and opens no other file and no address."""

from pathlib import Path

import av
import numpy as np
import pytest
from attack_files import FRAMES, attacks, listener, refer_to, write_secret
from drawn_videos import DrawnVideo, write

from vswin_jax.data import open_video
from vswin_jax.data.decoding.untrusted_file import UntrustedFile
from vswin_jax.errors import InputError

# FFmpeg tries some formats by the suffix of the name alone.
SUFFIXES = ("", ".m3u8", ".mpd", ".sdp", ".ffconcat")


def count_frames(path: Path, **options: str) -> int:
    with av.open(f"file:{path}", options=options) as container:
        return len(list(container.decode(video=0)))


def test_lists_of_other_files_are_refused(tmp_path: Path) -> None:
    secret = write_secret(tmp_path)
    with listener() as (port, calls):
        for name, content in attacks(secret, port).items():
            for suffix in SUFFIXES:
                path = tmp_path / f"{name}{suffix}"
                path.write_bytes(content)
                with pytest.raises(InputError, match=r"'clip\.mp4' (cannot be read|has)") as caught:
                    open_video(UntrustedFile(str(path)), "clip.mp4")
                assert str(tmp_path) not in str(caught.value)
    assert calls == []


def test_the_attacks_work_where_nothing_forbids_them(tmp_path: Path) -> None:
    secret = write_secret(tmp_path)
    (tmp_path / "list.m3u8").write_bytes(attacks(secret, 1)["hls_file"])
    (tmp_path / "list.txt").write_bytes(attacks(secret, 1)["concat_relative"])
    (tmp_path / "other.mov").write_bytes(refer_to(secret.read_bytes(), secret.name))
    assert count_frames(tmp_path / "list.m3u8") == FRAMES
    assert count_frames(tmp_path / "list.txt") == FRAMES
    assert count_frames(tmp_path / "other.mov", enable_drefs="1") == FRAMES
    with listener() as (port, calls), pytest.raises(av.FFmpegError):
        av.open(f"http://127.0.0.1:{port}/list.m3u8", timeout=5)
    assert len(calls) >= 1


CODECS = {
    "libx264": ("mp4", "mov", "mkv", "ts", "3gp"),
    "libvpx-vp9": ("webm",),
    "mpeg4": ("avi",),
    "mpeg1video": ("mpg",),
    "flv": ("flv",),
    "wmv2": ("wmv",),
    "gif": ("gif",),
}


@pytest.mark.parametrize(
    ("codec", "container"),
    [(codec, container) for codec, containers in CODECS.items() for container in containers],
)
def test_common_formats_have_the_same_frames_under_any_name(
    codec: str, container: str, tmp_path: Path
) -> None:
    pixel_format = "rgb8" if codec == "gif" else "yuv420p"
    path = write(DrawnVideo(codec, container, pixel_format, count=4), tmp_path / "clip")
    with open_video(path) as video:
        expected = video.decode(range(video.num_frames))
    unnamed = path.rename(tmp_path / "0001")
    with open_video(UntrustedFile(str(unnamed)), "clip") as video:
        assert np.array_equal(video.decode(range(video.num_frames)), expected)
