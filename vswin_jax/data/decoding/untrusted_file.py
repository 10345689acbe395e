"""A video file from the network: FFmpeg may read this file, and must not open any other one.

Some formats of FFmpeg are lists of files and addresses, which it opens: playlists (HLS, DASH,
concat), session descriptions (SDP) and others. Sent to a server, such a list would make it read
files of its own machine, or call addresses of its network. FFmpeg recognises a format by the
content, whatever the name of the file. Therefore only formats that hold their frames themselves are
read.
"""

import os
from dataclasses import dataclass

# Demuxers, by their names in FFmpeg.
_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2",
    "matroska,webm",
    *("avi", "mpegts", "mpeg", "mpegvideo", "flv", "asf", "ogg", "gif", "mxf", "dv"),
)
UNTRUSTED_OPTIONS = {
    "format_whitelist": ",".join(_FORMATS),
    "protocol_whitelist": "file",
    # QuickTime files can refer to frames in other files, which is off by default too.
    "enable_drefs": "0",
}


@dataclass(frozen=True)
class UntrustedFile:
    """A file from the network, stored at `path`, which is not its name in messages."""

    path: str


FileSource = str | os.PathLike[str] | bytes | UntrustedFile
