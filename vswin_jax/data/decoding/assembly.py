"""Putting single frames together into the clip that was asked for."""

from collections.abc import Callable, Iterable

import numpy as np

from vswin_jax.errors import InputError

# From a frame [H, W, 3] to what the clip has of it. That may be written to the second argument and
# be the second argument, where it is not None: it spares a copy.
FrameTransform = Callable[[np.ndarray, np.ndarray | None], np.ndarray]


def assemble(
    frames: Iterable[tuple[int, np.ndarray]],
    indices: np.ndarray,
    num_frames: int,
    name: str,
    transform: FrameTransform | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Frames uint8 [T, H, W, 3] at `indices` [T], in that order and with their repetitions.

    They are written to `out`, which is made when the first frame tells the size, if not given.

    `frames` yields every wanted (index, frame) once, in any order; `transform` is applied to each
    frame as it comes, so the full-size frames of a long clip are never in memory together.
    """
    rows_of = _rows_of(indices.tolist())
    if min(rows_of) < 0 or max(rows_of) >= num_frames:
        raise IndexError(f"frames {min(rows_of)}..{max(rows_of)} of {num_frames} in {name!r}")
    for index, frame in frames:
        first, *others = rows_of.pop(index)
        target = None if out is None else out[first]
        frame = transform(frame, target) if transform else frame
        if out is None:
            out = np.empty((len(indices), *frame.shape), np.uint8)
        if frame.shape != out.shape[1:]:
            raise InputError(
                f"The frames of {name!r} are not of one size ({out.shape[2]}x{out.shape[1]} and "
                f"{frame.shape[1]}x{frame.shape[0]}): extract them again at one size."
            )
        for row in others if frame is target else (first, *others):
            out[row] = frame
    check_found(min(rows_of, default=num_frames), num_frames, name)
    return out


def _rows_of(indices: Iterable[int]) -> dict[int, list[int]]:
    """The rows at which each index stands."""
    rows_of: dict[int, list[int]] = {}
    for row, index in enumerate(indices):
        rows_of.setdefault(index, []).append(row)
    return rows_of


def check_found(first_missing: int, num_frames: int, name: str) -> None:
    """Raises an InputError unless all `num_frames` frames of the video `name` were decoded."""
    if first_missing < num_frames:
        raise InputError(
            f"Frame {first_missing} of {num_frames} in {name!r} cannot be decoded: the file is "
            "damaged; encode it again or take it off the list."
        )
