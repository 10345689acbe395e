"""Videos that are images, one a frame: in a folder, or encoded in memory."""

import abc
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import cv2
import numpy as np

from vswin_jax.data.decoding.assembly import FrameTransform, assemble
from vswin_jax.errors import InputError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
_NUMBERED = re.compile(r"(?P<prefix>.*?)(?P<number>\d+)$")


@dataclass(frozen=True)
class FrameFolder:
    """A folder of images named by a prefix and the frame's number: img_00001.jpg, ...

    `total` is how many of them, from the lowest number on, are the video; 0 means all.
    """

    path: str
    total: int = 0


@dataclass(frozen=True, eq=False)
class EncodedFrames:
    """The frames of a video as the bytes of image files, as records hold them.

    times: when each is shown, seconds from the first, float64 [N]; None if nobody knows.
    """

    images: Sequence[bytes]
    times: np.ndarray | None = None


class ImageReader(abc.ABC):
    """Images behind the interface of a video file."""

    name: str

    @property
    @abc.abstractmethod
    def num_frames(self) -> int:
        """How many frames there are."""

    @property
    @abc.abstractmethod
    def times(self) -> np.ndarray | None:
        """When each frame is shown, seconds from the first, float64 [N]; None if nobody knows."""

    @abc.abstractmethod
    def _read(self, index: int) -> np.ndarray:
        """One frame, uint8 RGB [H, W, 3]."""

    def decode(
        self,
        indices: Sequence[int] | np.ndarray,
        transform: FrameTransform | None = None,
        out: np.ndarray | None = None,
    ) -> np.ndarray:
        """The frames at `indices` as `VideoFile.decode` gives them, uint8 RGB [T, H, W, 3]."""
        wanted = np.unique(indices)
        frames = ((i, self._read(i)) for i in wanted.tolist())
        return assemble(frames, np.asarray(indices), self.num_frames, self.name, transform, out)

    def frames(self) -> Iterator[np.ndarray]:
        """All frames in order, uint8 RGB [H, W, 3]."""
        return map(self._read, range(self.num_frames))

    def close(self) -> None:  # noqa: B027
        """Nothing is held open; here because a video file has it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()


class FrameReader(ImageReader):
    """The frames of a `FrameFolder`."""

    def __init__(self, folder: FrameFolder) -> None:
        self.name = folder.path
        files = _frame_files(folder.path)
        if len(files) < folder.total:
            raise InputError(
                f"{folder.path!r} should hold {folder.total} frames but has {len(files)} images: "
                "extract them again or correct the annotation."
            )
        self._files = files[: folder.total or None]

    @property
    def num_frames(self) -> int:
        """How many frames there are."""
        return len(self._files)

    @property
    def times(self) -> None:
        """Images do not say when they were taken."""
        return None

    def _read(self, index: int) -> np.ndarray:
        path = os.path.join(self.name, self._files[index])
        image = cv2.imread(path, cv2.IMREAD_COLOR)
        if image is None:
            raise InputError(f"{path!r} is not an image that can be read: extract it again.")
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


class EncodedReader(ImageReader):
    """The frames of `EncodedFrames`, which errors call `name`; only those asked for are decoded."""

    def __init__(self, video: EncodedFrames, name: str) -> None:
        self.name = name or "encoded frames"
        self._video = video
        if not video.images:
            raise InputError(f"{self.name!r} has no frames: take it off the list.")

    @property
    def num_frames(self) -> int:
        """How many frames there are."""
        return len(self._video.images)

    @property
    def times(self) -> np.ndarray | None:
        """When each frame is shown, as the record says, seconds from the first, float64 [N]."""
        return self._video.times

    def _read(self, index: int) -> np.ndarray:
        encoded = np.frombuffer(self._video.images[index], np.uint8)
        image = cv2.imdecode(encoded, cv2.IMREAD_COLOR) if encoded.size else None
        if image is None:
            raise InputError(
                f"Frame {index} of {self.name!r} is not an image that can be read: prepare the "
                "records again."
            )
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def is_image(name: str) -> bool:
    """Whether a file's name is that of an image and not hidden."""
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")


def _frame_files(path: str) -> list[str]:
    """The image files of one numbered sequence in a folder, in the order of their numbers."""
    try:
        names = [name for name in os.listdir(path) if is_image(name)]
    except OSError as error:
        raise InputError(f"The frame folder {path!r} cannot be read: {error.strerror}.") from error
    sequences: dict[str, list[tuple[int, str]]] = {}
    for name in names:
        match = _NUMBERED.match(os.path.splitext(name)[0])
        if match:
            sequences.setdefault(match["prefix"], []).append((int(match["number"]), name))
    return [name for _, name in sorted(_choose(sequences, path))]


def _choose(sequences: dict[str, list[tuple[int, str]]], path: str) -> list[tuple[int, str]]:
    """The one sequence; beside optical flow (`flow_x_`, `flow_y_`) it is the one named `img_`."""
    if "img_" in sequences:
        return sequences["img_"]
    if len(sequences) == 1:
        return next(iter(sequences.values()))
    if not sequences:
        raise InputError(
            f"The frame folder {path!r} holds no numbered images such as img_00001.jpg: extract "
            "the video's frames into it or take it off the list."
        )
    raise InputError(
        f"The frame folder {path!r} holds several numbered sequences "
        f"({', '.join(map(repr, sorted(sequences)))}): keep one, or name the RGB frames img_*."
    )
