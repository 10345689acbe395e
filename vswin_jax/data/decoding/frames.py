"""Videos stored as one image for each frame, in a folder or encoded in memory."""

import abc
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from vswin_jax.data.decoding.video import Video
from vswin_jax.errors import InputError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
_NUMBERED = re.compile(r"(?P<prefix>.*?)(?P<number>\d+)$")


@dataclass(frozen=True)
class FrameFolder:
    """A folder of images named by a prefix and the frame's number: img_00001.jpg, ...

    Attributes:
      path: the folder.
      num_frames: the video is this many images from the lowest number on; 0 means all of them.
    """

    path: str
    num_frames: int = 0


@dataclass(frozen=True, eq=False)
class EncodedFrames:
    """The frames of a video as the bytes of image files, as records store them.

    Attributes:
      images: the bytes of one image file a frame.
      times: the presentation times, seconds from the first frame, float64 [N]; None if unknown.
    """

    images: Sequence[bytes]
    times: np.ndarray | None = None


class ImageReader(Video):
    """Base class of videos whose frames are independent images."""

    @abc.abstractmethod
    def _read(self, index: int) -> np.ndarray:
        """Return one frame, uint8 RGB [H, W, 3]."""

    def _decode_unique(self, indices: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        return ((index, self._read(index)) for index in indices.tolist())

    def frames(self) -> Iterator[np.ndarray]:
        """Yield all frames in the order of their numbers, uint8 RGB [H, W, 3]."""
        return map(self._read, range(self.num_frames))


class FrameReader(ImageReader):
    """Reads the frames of a `FrameFolder`."""

    def __init__(self, folder: FrameFolder) -> None:
        self.name = folder.path
        files = _frame_files(folder.path)
        if len(files) < folder.num_frames:
            raise InputError(
                f"{folder.path!r} should hold {folder.num_frames} frames but has {len(files)} "
                "images: extract them again or correct the annotation."
            )
        self._files = files[: folder.num_frames or None]

    @property
    def num_frames(self) -> int:
        """The number of images that belong to the video."""
        return len(self._files)

    @property
    def times(self) -> None:
        """None: image files have no presentation times."""
        return None

    def _read(self, index: int) -> np.ndarray:
        path = os.path.join(self.name, self._files[index])
        # OpenCV crashes for names that are not UTF-8, so it does not open the file itself.
        try:
            with open(path, "rb") as file:
                image = _decode_image(file.read())
        except OSError as error:
            raise InputError(f"{path!r} cannot be read: {error.strerror}.") from error
        if image is None:
            raise InputError(f"{path!r} is not an image that can be read: extract it again.")
        return image


class EncodedReader(ImageReader):
    """Decodes the requested frames of `EncodedFrames`, which errors call `name`."""

    def __init__(self, video: EncodedFrames, name: str) -> None:
        self.name = name or "encoded frames"
        self._video = video
        if not video.images:
            raise InputError(f"{self.name!r} has no frames: take it off the list.")

    @property
    def num_frames(self) -> int:
        """The number of images."""
        return len(self._video.images)

    @property
    def times(self) -> np.ndarray | None:
        """The record's presentation times, seconds from the first frame, float64 [N], if any."""
        return self._video.times

    def _read(self, index: int) -> np.ndarray:
        image = _decode_image(self._video.images[index])
        if image is None:
            raise InputError(
                f"Frame {index} of {self.name!r} is not an image that can be read: prepare the "
                "records again."
            )
        return image


def _decode_image(encoded: bytes) -> np.ndarray | None:
    """Decode the bytes of an image file, uint8 RGB [H, W, 3]; None if it cannot be read."""
    try:
        # OpenCV raises an error for an empty buffer, and for more than 2**30 pixels.
        image = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise
        return None
    return None if image is None else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def is_image(name: str) -> bool:
    """Return True if a file has an image's suffix and is not hidden."""
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")


def _frame_files(path: str) -> list[str]:
    """Return the image files of a folder's one sequence, in the order of their numbers."""
    try:
        names = [name for name in os.listdir(path) if is_image(name)]
    except OSError as error:
        raise InputError(f"The frame folder {path!r} cannot be read: {error.strerror}.") from error
    sequences: dict[str, list[tuple[int, str]]] = {}
    for name in names:
        match = _NUMBERED.match(os.path.splitext(name)[0])
        if match:
            sequences.setdefault(match["prefix"], []).append((int(match["number"]), name))
    return [name for _, name in sorted(_choose_sequence(sequences, path))]


def _choose_sequence(
    sequences: dict[str, list[tuple[int, str]]], path: str
) -> list[tuple[int, str]]:
    """Return the only sequence, or the one named `img_` beside optical flow (`flow_x_`, ...)."""
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
