"""Putting single frames together into the clip that was asked for."""

from collections.abc import Callable, Iterable

import numpy as np

from vswin_jax.errors import InputError

FrameTransform = Callable[[np.ndarray], np.ndarray]


def assemble(
    frames: Iterable[tuple[int, np.ndarray]],
    indices: np.ndarray,
    num_frames: int,
    name: str,
    transform: FrameTransform | None = None,
) -> np.ndarray:
    """Frames uint8 [T, H, W, 3] at `indices` [T], in that order and with their repetitions.

    `frames` yields every wanted (index, frame) once, in any order; `transform` is applied to each
    frame as it comes, so the full-size frames of a long clip are never in memory together.
    """
    wanted, inverse = np.unique(indices, return_inverse=True)
    if wanted[0] < 0 or wanted[-1] >= num_frames:
        raise IndexError(f"frames {wanted[0]}..{wanted[-1]} of {num_frames} in {name!r}")
    row_of = {index: row for row, index in enumerate(wanted.tolist())}
    clip = np.empty(0, np.uint8)
    for index, frame in frames:
        frame = transform(frame) if transform else frame
        if not clip.size:
            clip = np.empty((len(wanted), *frame.shape), np.uint8)
        if frame.shape != clip.shape[1:]:
            raise InputError(
                f"The frames of {name!r} are not of one size ({clip.shape[2]}x{clip.shape[1]} and "
                f"{frame.shape[1]}x{frame.shape[0]}): extract them again at one size."
            )
        clip[row_of.pop(index)] = frame
    check_found(min(row_of, default=num_frames), num_frames, name)
    return clip if len(wanted) == len(indices) and _ascending(indices) else clip[inverse.ravel()]


def check_found(first_missing: int, num_frames: int, name: str) -> None:
    """Raises an InputError unless all `num_frames` frames of the video `name` were decoded."""
    if first_missing < num_frames:
        raise InputError(
            f"Frame {first_missing} of {num_frames} in {name!r} cannot be decoded: the file is "
            "damaged; encode it again or take it off the list."
        )


def _ascending(indices: np.ndarray) -> bool:
    return bool(np.all(indices[1:] > indices[:-1]))
