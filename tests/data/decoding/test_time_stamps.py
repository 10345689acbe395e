import numpy as np
import pytest

from vswin_jax.data.decoding.time_stamps import is_presentation_order


def _is_order(
    pts: list[int],
    keyframes: list[int],
    *,
    depth: int,
    dts: list[int] | None = None,
    hidden: tuple[int, ...] = (),
) -> bool:
    """Call `is_presentation_order` for packets of which those at `hidden` are not shown."""
    positions = np.arange(len(pts))
    return is_presentation_order(
        np.array(pts),
        np.array(positions if dts is None else dts),
        np.isin(positions, keyframes),
        ~np.isin(positions, hidden),
        reorder_depth=depth,
    )


def test_good_streams() -> None:
    assert _is_order([0, 1, 2, 3], [0, 2], depth=0)
    # I0 P3 B1 B2 I6 B4 B5, an open group of pictures.
    assert _is_order([0, 3, 1, 2, 6, 4, 5], [0, 4], depth=1)
    # A pyramid: B2 refers to I0 and P4, and B1 to I0 and B2.
    assert _is_order([0, 4, 2, 1, 3], [0], depth=2)
    # A codec that may reorder frames, but has no reason to.
    assert _is_order([0, 1, 2], [0, 1, 2], depth=1)


@pytest.mark.parametrize("pts", [[0, 1, 2, 3], [7, 20, 21, 40]])
def test_stamps_that_ascend_while_the_codec_reorders(pts: list[int]) -> None:
    assert not _is_order(pts, [0], depth=1)


def test_stamps_that_reorder_while_the_codec_does_not() -> None:
    assert not _is_order([0, 2, 1, 3], [0], depth=0)
    # The same stamps, where a frame that is not shown has the wrong one.
    assert _is_order([0, 2, 1, 3], [0], depth=0, hidden=(1,))


def test_stamps_that_reorder_more_than_the_codec_does() -> None:
    assert not _is_order([0, 4, 2, 1, 3], [0], depth=1)
    assert not _is_order([0, 3, 2, 1], [0], depth=1)


def test_stamps_that_begin_again() -> None:
    # Each part is I0 P2 B1; that of the second part begins between the stamps of the first.
    assert not _is_order([0, 20, 10, 5, 25, 15], [0, 3], depth=1)
    # Decoding times that run back.
    assert not _is_order([0, 2, 1, 3, 5, 4], [0, 3], dts=[0, 1, 2, 1, 2, 3], depth=1)
    assert _is_order([0, 2, 1, 3, 5, 4], [0, 3], dts=[0, 1, 1, 2], depth=1)


def test_streams_that_do_not_begin_with_a_key_frame() -> None:
    assert not _is_order([0, 2, 1], [1], depth=1)
    # The first key frame, 4, is stored before the frames 2 and 3.
    assert not _is_order([4, 2, 3, 5], [0], depth=1)
    # An edit list cuts those off.
    assert _is_order([4, 2, 3, 6, 5], [0], depth=1, hidden=(1, 2))
