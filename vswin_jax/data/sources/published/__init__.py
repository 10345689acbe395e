"""Lists of videos as data sets published them, each family in a module with its source."""

from vswin_jax.data.sources.published import hmdb51, kinetics, moments, ssv2, ucf101
from vswin_jax.data.sources.published.hmdb51 import folder_of
from vswin_jax.data.sources.published.listing import Listing
from vswin_jax.data.sources.published.on_disk import find_videos
from vswin_jax.errors import InputError

__all__ = ["KINDS", "Listing", "find_videos", "folder_of", "read_listing", "recognise"]

_FAMILIES = {
    "kinetics": kinetics.FAMILY,
    "ssv2": ssv2.FAMILY,
    "ucf101": ucf101.FAMILY,
    "hmdb51": hmdb51.FAMILY,
    "mit": moments.FAMILY,
}
KINDS = tuple(_FAMILIES)
_HEAD = 8192  # characters, more than the first record of any of them


def recognise(path: str) -> str | None:
    """Which of `KINDS` the file or folder at `path` is, by its name and its beginning, if any."""
    head = _head(path)
    return next((kind for kind in KINDS if _FAMILIES[kind].recognises(path, head)), None)


def read_listing(path: str, kind: str) -> Listing:
    """What the list of a `kind` says.

    Raises:
        InputError: it cannot be read, is empty, or a line cannot be understood (says which).
    """
    listing = _FAMILIES[kind].read(path)
    if not listing.entries:
        raise InputError(f"The {kind} list {path!r} lists no videos.")
    return listing


def _head(path: str) -> str:
    try:
        with open(path, encoding="utf-8-sig", errors="replace") as file:
            return file.read(_HEAD)
    except OSError:
        # A folder, or what the reader will complain about.
        return ""
