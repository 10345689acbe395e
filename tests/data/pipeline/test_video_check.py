"""The check of a video agrees with the clips of training, and misses no damaged frame."""

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from vswin_jax.data import ClipSpec, Example, FrameFolder, train_clip
from vswin_jax.data.clips.clips import test_views as views_of
from vswin_jax.data.decoding.decode import three_frames
from vswin_jax.data.pipeline.video_check import (
    FrameChoice,
    eval_frames,
    every_frame,
    train_frames,
    unreadable_reason,
)
from vswin_jax.errors import InputError

WriteVideo = Callable[..., Path]

SPEC = ClipSpec(num_frames=3, frame_interval=2, resize=36, size=32, num_clips=2, num_crops=1)
UNIFORM = replace(SPEC, sampling="uniform", num_clips=1)
DRAWS = 40


def _reasons_of_clips(example: Example, spec: ClipSpec) -> set[str]:
    """Return the reasons for which any of many training clips cannot be read, and "" for others."""
    reasons = set()
    for seed in range(DRAWS):
        try:
            train_clip(example, spec, np.random.default_rng(seed))
            reasons.add("")
        except InputError as error:
            reasons.add(str(error))
    return reasons


def _is_readable(load: Callable[[Example, ClipSpec], object], example: Example) -> bool:
    try:
        load(example, SPEC)
    except InputError:
        return False
    return True


def _check(example: Example, choose: FrameChoice = every_frame) -> bool:
    return unreadable_reason(example, choose) == ""


def _damage(path: Path, frame: int) -> None:
    """Overwrite the packet of a frame in a video in which every frame is a key frame."""
    with av.open(str(path)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][frame]
        position, size = packet.pos, packet.size
    content = path.read_bytes()
    path.write_bytes(content[:position] + b"\xff" * size + content[position + size :])


@pytest.mark.parametrize("frame", range(1, 11))
def test_each_damaged_frame(tmp_path: Path, write_video: WriteVideo, frame: int) -> None:
    path = write_video("a.mp4", 11, g="1", bf="0")
    _damage(path, frame)
    example = Example(str(path), 0, 0, "a.mp4")
    assert not _check(example)
    assert _check(example, three_frames) == (frame not in (5, 10))
    # Clips of frames k, k+2 and k+4 begin at frames 0 to 5, so none has the last frame.
    for spec in (SPEC, UNIFORM):
        is_good = _check(example, functools.partial(train_frames, spec))
        assert is_good == (spec is SPEC and frame == 10)
        assert is_good == (_reasons_of_clips(example, spec) == {""})
    # The clips of two views begin at frames 1 and 4.
    assert _check(example, functools.partial(eval_frames, SPEC)) == (frame in (2, 7, 9, 10))
    assert _is_readable(views_of, example) == (frame in (2, 7, 9, 10))


def test_damage_within_a_group_of_pictures(tmp_path: Path, write_video: WriteVideo) -> None:
    """Later frames of the group refer to the damaged one; clips of other groups can be read."""
    path = write_video("a.mp4", 36, g="12", bf="0", sc_threshold="0")
    _damage(path, 15)
    example = Example(str(path), 0, 0, "a.mp4")
    reasons = _reasons_of_clips(example, SPEC)
    assert len(reasons) == 2
    assert {"", unreadable_reason(example)} == reasons
    assert unreadable_reason(example, functools.partial(train_frames, SPEC)) in reasons - {""}


def _folder(path: Path, sizes: list[tuple[int, int]]) -> Example:
    path.mkdir()
    for number, (width, height) in enumerate(sizes, 1):
        cv2.imwrite(str(path / f"img_{number:05d}.png"), np.full((height, width, 3), 90, np.uint8))
    return Example(FrameFolder(str(path), len(sizes)), 0, 0, path.name)


def test_folders_of_frames(tmp_path: Path) -> None:
    good = _folder(tmp_path / "good", [(64, 48)] * 8)
    larger = _folder(tmp_path / "larger", [(64, 48)] * 4 + [(128, 96)] * 4)
    turned = _folder(tmp_path / "turned", [(64, 48)] * 5 + [(48, 64)] + [(64, 48)] * 2)
    missing = _folder(tmp_path / "missing", [(64, 48)] * 8)
    (tmp_path / "missing/img_00003.png").unlink()
    torn = _folder(tmp_path / "torn", [(64, 48)] * 8)
    (tmp_path / "torn/img_00004.png").write_bytes(b"torn")
    for example in (good, larger):
        assert _reasons_of_clips(example, SPEC) == {unreadable_reason(example)} == {""}
    words = {"turned": "not of one size", "missing": "has 7 images", "torn": "img_00004.png' is"}
    for example in (turned, missing, torn):
        reason = unreadable_reason(example)
        assert words[example.name] in reason
        # Sizes are those after the resize to 256 pixels, or to 36.
        assert {why.partition(" (")[0] for why in _reasons_of_clips(example, SPEC) - {""}} == {
            reason.partition(" (")[0]
        }


def test_the_heartbeat_comes_every_32_frames(write_video: WriteVideo) -> None:
    beats: list[int] = []
    example = Example(str(write_video(count=70)), 0, 0, "a.mp4")
    assert unreadable_reason(example, heartbeat=lambda: beats.append(1)) == ""
    assert len(beats) == 2
