"""The interface that all kinds of videos share."""

import abc
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

import numpy as np

from vswin_jax.data.decoding.assembly import FrameTransform, assemble


class Video(abc.ABC):
    """A video with random access to its frames; a context manager that closes it.

    Attributes:
      name: the path, or another name for error messages.
    """

    name: str

    @property
    @abc.abstractmethod
    def num_frames(self) -> int:
        """The exact number of frames."""

    @property
    @abc.abstractmethod
    def times(self) -> np.ndarray | None:
        """The presentation times, seconds from the first frame, float64 [N]; None if unknown."""

    @abc.abstractmethod
    def frames(self) -> Iterator[np.ndarray]:
        """Yield all upright frames in presentation order, uint8 RGB [H, W, 3], one at a time.

        Raises:
          InputError: a frame cannot be decoded.
        """

    @abc.abstractmethod
    def _decode_unique(self, indices: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (index, upright RGB frame) of sorted distinct `indices`, in any order."""

    def decode(
        self,
        indices: Sequence[int] | np.ndarray,
        transform: FrameTransform | None = None,
        out: np.ndarray | None = None,
    ) -> np.ndarray:
        """Decode the upright frames at `indices` [T], uint8 RGB [T, H, W, 3], and no others.

        Indices may repeat and be in any order. `transform` is applied to each frame once. The
        result is written to `out`, which is allocated if it is None.

        Raises:
          InputError: a frame cannot be decoded.
        """
        frames = self._decode_unique(np.unique(indices))
        return assemble(frames, np.asarray(indices), self.num_frames, self.name, transform, out)

    def decode_each(self, indices: Sequence[int] | np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (index, upright RGB frame) of distinct `indices`, most of them in order.

        One frame at a time is in memory. Frames that cannot be decoded may be left out.

        Raises:
          InputError: a part of the file cannot be decoded.
        """
        return self._decode_unique(np.unique(indices))

    def close(self) -> None:  # noqa: B027
        """Close the file, if the video keeps one open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
