"""Assembly of a clip from single frames that arrive in any order."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from vswin_jax.errors import InputError

# Maps a frame [H, W, 3] to the array stored for it in the clip. The second argument, unless None,
# is the memory of that array in the clip: a transform that writes its result there and returns
# the second argument itself saves a copy.
FrameTransform = Callable[[np.ndarray, np.ndarray | None], np.ndarray]


def assemble(
    frames: Iterable[tuple[int, np.ndarray]],
    indices: np.ndarray,
    num_frames: int,
    name: str,
    transform: FrameTransform | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Build the clip uint8 [T, H, W, 3] of the frames at `indices` [T], in that order.

    `frames` yields each distinct (index, frame) once, in any order. `transform` is applied to each
    frame as it arrives, so the full-size frames of a long clip are never in memory together.
    Without `out` the clip is allocated when the first transformed frame determines its size.
    """
    positions = _positions(indices.tolist())
    if min(positions) < 0 or max(positions) >= num_frames:
        raise IndexError(f"frames {min(positions)}..{max(positions)} of {num_frames} in {name!r}")
    for index, frame in frames:
        first, *others = positions.pop(index)
        target = None if out is None else out[first]
        frame = transform(frame, target) if transform else frame
        if out is None:
            out = np.empty((len(indices), *frame.shape), np.uint8)
        check_same_size(out.shape[1:], frame.shape, name)
        for position in others if frame is target else (first, *others):
            out[position] = frame
    check_decoded(min(positions, default=num_frames), num_frames, name)
    return out


def _positions(indices: Iterable[int]) -> dict[int, list[int]]:
    """Map each index to its positions in the clip; indices may repeat."""
    positions: dict[int, list[int]] = {}
    for position, index in enumerate(indices):
        positions.setdefault(index, []).append(position)
    return positions


def check_same_size(expected: Sequence[int], shape: Sequence[int], name: str) -> None:
    """Raise an InputError unless a frame of the video `name` has the `expected` shape."""
    if tuple(shape) != tuple(expected):
        raise InputError(
            f"The frames of {name!r} are not of one size ({expected[1]}x{expected[0]} and "
            f"{shape[1]}x{shape[0]}): extract them again at one size."
        )


def check_decoded(first_missing: int, num_frames: int, name: str) -> None:
    """Raise an InputError unless all `num_frames` frames of the video `name` were decoded."""
    if first_missing < num_frames:
        raise InputError(
            f"Frame {first_missing} of {num_frames} in {name!r} cannot be decoded: the file is "
            "damaged; encode it again or take it off the list."
        )
