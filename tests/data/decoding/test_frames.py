import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from vswin_jax.data import FrameFolder, open_video
from vswin_jax.errors import InputError


def _write(folder: Path, numbers: range, name: str = "img_{:05}.png", shade: int = 0) -> None:
    """Write frames whose red channel is 10 x number + shade."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        picture = np.zeros((6, 8, 3), np.uint8)
        picture[..., 2] = 10 * number + shade  # OpenCV writes BGR
        cv2.imwrite(str(folder / name.format(number)), picture)


def _reds(folder: FrameFolder, indices: list[int]) -> list[int]:
    with open_video(folder) as video:
        frames = video.decode(indices)
    assert frames.shape == (len(indices), 6, 8, 3)
    assert not frames[..., 1:].any()
    return frames[:, 0, 0, 0].tolist()


@pytest.mark.parametrize("name", ["img_{:05}.png", "{}.png", "frame-{:03}.bmp"])
def test_frames_in_the_order_of_their_numbers(tmp_path: Path, name: str) -> None:
    _write(tmp_path, range(1, 13), name)
    with open_video(FrameFolder(str(tmp_path))) as video:
        assert video.num_frames == 12
    assert _reds(FrameFolder(str(tmp_path)), [0, 11, 9, 0]) == [10, 120, 100, 10]


def test_num_frames_of_the_list_is_respected(tmp_path: Path) -> None:
    _write(tmp_path, range(1, 8))
    with open_video(FrameFolder(str(tmp_path), 5)) as video:
        assert video.num_frames == 5
    with pytest.raises(InputError, match="should hold 9 frames but has 7"):
        open_video(FrameFolder(str(tmp_path), 9))


def test_optical_flow_beside_the_frames_is_left_out(tmp_path: Path) -> None:
    _write(tmp_path, range(1, 4))
    _write(tmp_path, range(1, 4), "flow_x_{:05}.png", shade=5)
    assert _reds(FrameFolder(str(tmp_path)), [0, 1, 2]) == [10, 20, 30]


def test_two_sequences_in_a_folder_are_refused(tmp_path: Path) -> None:
    _write(tmp_path, range(2), "left{}.png")
    _write(tmp_path, range(2), "right{}.png")
    with pytest.raises(InputError, match=r"'left', 'right'"):
        open_video(FrameFolder(str(tmp_path)))


def test_missing_images_and_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no numbered images"):
        open_video(FrameFolder(str(tmp_path)))
    with pytest.raises(InputError, match="No such file"):
        open_video(FrameFolder(str(tmp_path / "gone")))


def test_a_folder_whose_name_is_not_utf8(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    _write(tmp_path / "ascii", range(1, 4))
    (tmp_path / "ascii").rename(folder)
    assert _reds(FrameFolder(str(folder)), [2, 0]) == [30, 10]


def test_a_broken_image_is_named(tmp_path: Path) -> None:
    _write(tmp_path, range(1, 4))
    (tmp_path / "img_00002.png").write_bytes(b"torn")
    with open_video(FrameFolder(str(tmp_path))) as video:
        assert video.decode([0, 2]).shape[0] == 2
        with pytest.raises(InputError, match=r"img_00002\.png"):
            video.decode([1])


def test_frames_of_two_sizes_are_refused(tmp_path: Path) -> None:
    _write(tmp_path, range(1, 3))
    cv2.imwrite(str(tmp_path / "img_00003.png"), np.zeros((4, 4, 3), np.uint8))
    with (
        open_video(FrameFolder(str(tmp_path))) as video,
        pytest.raises(InputError, match="not of one size"),
    ):
        video.decode([0, 2])
