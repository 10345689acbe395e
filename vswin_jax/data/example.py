"""The interface of every kind of data set: a source of examples with random access."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from vswin_jax.data.decoding.frames import EncodedFrames, FrameFolder
from vswin_jax.data.decoding.untrusted_file import UntrustedFile


@dataclass(frozen=True)
class Example:
    """One labelled video.

    Attributes:
      video: a path, the bytes of a file, an untrusted file, a folder of frames, or the bytes of
        every frame.
      label: the class index; of a multi-label source, all class indices in ascending order.
      id: the index in the source.
      name: for messages and tables, the path as the user wrote it or the name in a record.
    """

    video: str | bytes | UntrustedFile | FrameFolder | EncodedFrames
    label: int | tuple[int, ...]
    id: int
    name: str


@runtime_checkable
class Source(Protocol):
    """Examples with random access.

    Attributes:
      label_names: the names of the classes, in the order of the labels.
      multi_label: True if every label is a tuple of classes, False if every label is one class.
    """

    label_names: tuple[str, ...]
    multi_label: bool

    @property
    def identity(self) -> str:
        """A digest of the examples, their labels and their order."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...
