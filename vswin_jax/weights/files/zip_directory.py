"""Opens zip files of unknown origin in bounded memory."""

import struct
import zipfile
from mmap import mmap

from vswin_jax.weights.files.byte_reader import ByteReader

# Enough for over 100,000 storages. ZipFile makes an object for each 46 bytes of the directory.
MAX_DIRECTORY_BYTES = 16 << 20
_BAD_ZIP = (zipfile.BadZipFile, NotImplementedError, struct.error, OverflowError)


def expansion_limit(size: int) -> int:
    """Return the most bytes that decompressed entries or tensors of a file of `size` may take.

    A compressed entry, or a tensor with a stride of 0, can be much larger than the file.
    """
    return 8 * size + (64 << 20)


def open_zip(data: mmap) -> zipfile.ZipFile:
    """Return the zip file in `data`, whose central directory has a bounded size.

    Raises:
      ValueError: it is no zip file, or a damaged one, or its directory is too large.
    """
    try:
        return zipfile.ZipFile(ByteReader(data, max_read=MAX_DIRECTORY_BYTES))
    except _BAD_ZIP as error:
        raise ValueError(f"its central directory: {error}") from None
