"""A video that a client has sent."""

from dataclasses import dataclass

from vswin_jax.data.decoding.untrusted_file import UntrustedFile
from vswin_jax.data.example import Example
from vswin_jax.runtime.printable import printable

_LONGEST_NAME = 200


@dataclass(frozen=True)
class UploadedVideo:
    """A video of a client.

    Attributes:
      file: the file in which the server has stored it.
      name: the client's name for it, which is a part of messages and no path.
    """

    file: UntrustedFile
    name: str

    @property
    def example(self) -> Example:
        """The video for the functions that read clips."""
        return Example(self.file, label=0, id=0, name=self.name)


def display_name(name: str) -> str:
    """Return the last part of a client's name for a video, on one line, not too long."""
    last = name.replace("\\", "/").rstrip("/").rpartition("/")[2].strip()
    # "." and ".." are folders.
    return printable(last)[:_LONGEST_NAME] if last.strip(".") else "video"
