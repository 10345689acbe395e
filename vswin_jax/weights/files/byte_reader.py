"""Bytes as a file object that never hands out, or sets memory aside for, more than there are."""

import io
from mmap import mmap


class ByteReader:
    """A position in `data`, with the calls that `pickletools` and `zipfile` make.

    A file's own `read(n)` sets n bytes aside before it looks; n comes from the file.
    """

    def __init__(self, data: bytes | mmap, longest: int) -> None:
        self.data = data
        self.longest = longest
        self.position = 0

    def read(self, count: int = -1) -> bytes:
        """The next `count` bytes (-1: all), fewer at the end; ValueError for over `longest`."""
        stop = len(self.data) if count < 0 else min(self.position + count, len(self.data))
        if stop - self.position > self.longest:
            raise ValueError(f"it has a single piece of {stop - self.position} bytes")
        piece = self.data[self.position : stop]
        self.position += len(piece)
        return piece

    def readline(self) -> bytes:
        """The bytes up to and with the next line feed, or none where it is not near."""
        end = self.data.find(b"\n", self.position, self.position + self.longest)
        return self.read(end + 1 - self.position) if end >= 0 else b""

    def tell(self) -> int:
        """The position, in bytes."""
        return self.position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Moves, and returns the position; ValueError for one before the start."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: len(self.data)}[whence]
        if start + offset < 0:
            raise ValueError("it points before its start")
        self.position = start + offset
        return self.position

    def seekable(self) -> bool:
        """True."""
        return True
