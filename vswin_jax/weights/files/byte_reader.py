"""A file object over bytes in memory that bounds each allocation."""

import io
from mmap import mmap


class ByteReader:
    """Reads `data` through the file methods that `pickletools` and `zipfile` call.

    A regular file's `read(n)` allocates n bytes before it reads any, and here n comes from an
    untrusted file. This `read` allocates no more than is left of `data`, and refuses more than
    `max_read` bytes.
    """

    def __init__(self, data: bytes | mmap, max_read: int) -> None:
        self.data = data
        self.max_read = max_read
        self.position = 0

    def read(self, count: int = -1) -> bytes:
        """Return the next `count` bytes (-1: all of the rest), or fewer at the end.

        Raises:
          ValueError: the result would be longer than `max_read`.
        """
        stop = len(self.data) if count < 0 else min(self.position + count, len(self.data))
        if stop - self.position > self.max_read:
            raise ValueError(f"it has a single piece of {stop - self.position} bytes")
        piece = self.data[self.position : stop]
        self.position += len(piece)
        return piece

    def readline(self) -> bytes:
        """Return the bytes through the next line feed; none if it is over `max_read` away."""
        end = self.data.find(b"\n", self.position, self.position + self.max_read)
        return self.read(end + 1 - self.position) if end >= 0 else b""

    def tell(self) -> int:
        """Return the position, in bytes."""
        return self.position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position and return it.

        Raises:
          ValueError: the position is before the start.
        """
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: len(self.data)}[whence]
        if start + offset < 0:
            raise ValueError("it refers to a position before its start")
        self.position = start + offset
        return self.position

    def seekable(self) -> bool:
        """Return True, which `zipfile` requires."""
        return True
