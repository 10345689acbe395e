"""Lists of videos in the formats in which data sets published them, one module a data set."""

from vswin_jax.data.sources.published import hmdb51, kinetics, moments, ssv2, ucf101
from vswin_jax.data.sources.published.hmdb51 import without_split
from vswin_jax.data.sources.published.listing import Listing
from vswin_jax.data.sources.published.on_disk import find_videos
from vswin_jax.errors import InputError
from vswin_jax.runtime.text_files import read_head

__all__ = ["KINDS", "Listing", "detect_kind", "find_videos", "read_listing", "without_split"]

_FORMATS = {
    "kinetics": kinetics.FORMAT,
    "ssv2": ssv2.FORMAT,
    "ucf101": ucf101.FORMAT,
    "hmdb51": hmdb51.FORMAT,
    "mit": moments.FORMAT,
}
KINDS = tuple(_FORMATS)
_HEAD_CHARACTERS = 8192  # more than the first record of any of these formats


def detect_kind(path: str) -> str | None:
    """Return the kind in `KINDS` that the name and beginning of a path indicate, or None."""
    head = _read_head(path)
    return next((kind for kind in KINDS if _FORMATS[kind].matches(path, head)), None)


def read_listing(path: str, kind: str) -> Listing:
    """Read a published list of one of `KINDS`.

    Raises:
      InputError: it cannot be read, is empty, or a line is malformed; the message names the line.
    """
    listing = _FORMATS[kind].read(path)
    if not listing.videos:
        raise InputError(f"The {kind} list {path!r} lists no videos.")
    return listing


def _read_head(path: str) -> str:
    try:
        return read_head(path, _HEAD_CHARACTERS)
    except OSError:
        # A folder, or a file that the reader cannot open either; its error explains the cause.
        return ""
