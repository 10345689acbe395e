"""Examples and the sources that hold them: what every kind of data set offers."""

from dataclasses import dataclass
from typing import Protocol

from vswin_jax.data.decoding.frames import EncodedFrames, FrameFolder


@dataclass(frozen=True)
class Example:
    """One labelled video.

    video: a path, a file's bytes, a folder of frames or the bytes of each; label: the class index,
    or of a set of classes all indices in ascending order; id: the index in the source; name: the
    path as the user wrote it, for messages and tables.
    """

    video: str | bytes | FrameFolder | EncodedFrames
    label: int | tuple[int, ...]
    id: int
    name: str


class Source(Protocol):
    """Examples with random access, and the names of their classes in the order of the labels.

    multi_label: whether every label is a set of classes, a tuple, or every one is a class.
    """

    label_names: tuple[str, ...]
    multi_label: bool

    @property
    def identity(self) -> str:
        """A digest of which examples there are, with which labels, in which order."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...
