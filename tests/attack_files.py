"""Files that make FFmpeg open other files or addresses, and a listener that counts the calls."""

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np

_CONTAINERS = (b"moov", b"trak", b"mdia", b"minf", b"dinf")
FRAMES = 10


def write_secret(folder: Path) -> Path:
    """Write secret.ts and secret.mp4, and return the latter."""
    for name, file_format in (("secret.ts", "mpegts"), ("secret.mp4", "mp4")):
        with av.open(str(folder / name), "w", format=file_format) as container:
            stream = container.add_stream("mpeg4", rate=10)
            stream.width = stream.height = 32
            for index in range(FRAMES):
                picture = np.full((32, 32, 3), 20 * index, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())
    return folder / "secret.mp4"


def attacks(secret: Path, port: int) -> dict[str, bytes]:
    """Return the contents of files that refer to `secret`, or to a port of this machine."""
    address = f"http://127.0.0.1:{port}"
    entry = "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10.0,\n{}\n#EXT-X-ENDLIST\n"
    texts = {
        "hls_file": entry.format(f"file://{secret.with_suffix('.ts')}"),
        "hls_passwd": entry.format("file:///etc/passwd"),
        "hls_http": entry.format(f"{address}/segment.ts"),
        "hls_master": f"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{address}/list.m3u8\n",
        "concat_relative": f"ffconcat version 1.0\nfile {secret.name}\n",
        "concat_http": f"ffconcat version 1.0\nfile {address}/video.mp4\n",
        "dash": (
            '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
            'mediaPresentationDuration="PT1S" profiles="urn:mpeg:dash:profile:isoff-main:2011">'
            '<Period><AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1">'
            f"<BaseURL>{address}/video.mp4</BaseURL></Representation></AdaptationSet></Period></MPD>"
        ),
        "sdp": (
            "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
            f"m=video {port} RTP/AVP 96\na=rtpmap:96 H264/90000\n"
        ),
        "rtsp": f"rtsp://127.0.0.1:{port}/video\n",
        "passwd": "/etc/passwd\n",
    }
    files = {name: text.encode() for name, text in texts.items()}
    return files | {"mov_reference": refer_to(secret.read_bytes(), secret.name)}


def refer_to(movie: bytes, name: str) -> bytes:
    """Return a movie whose frames are those of the file `name` in the same folder, by reference."""
    path = f"/{name}".encode()
    # A Macintosh alias record as `mov_read_dref` of FFmpeg reads it: volume and file name, the
    # levels up and down to the file, and the path as an entry of type 2.
    record = struct.pack(">10x B27s 12x B63s 16x HH 16x", 0, b"", len(path), path, 1, 1)
    record += struct.pack(">hH", 2, len(path)) + path + b"\0" * (len(path) % 2)
    record += struct.pack(">hH", -1, 0)
    alias = struct.pack(">I4sI", len(record) + 12, b"alis", 0) + record
    return _with_reference(movie, struct.pack(">II", 0, 1) + alias)


def _with_reference(boxes: bytes, reference: bytes) -> bytes:
    """Return boxes whose table of data references is replaced; the frames are zeros."""
    result, position = b"", 0
    while position < len(boxes):
        size, kind = struct.unpack_from(">I4s", boxes, position)
        content = boxes[position + 8 : position + size]
        if kind in _CONTAINERS:
            content = _with_reference(content, reference)
        elif kind == b"dref":
            content = reference
        elif kind == b"mdat":
            content = bytes(len(content))
        result += struct.pack(">I4s", len(content) + 8, kind) + content
        position += size
    return result


@contextlib.contextmanager
def listener() -> Iterator[tuple[int, list[bytes]]]:
    """Yield a port of this machine, and the first bytes of each call that it gets."""
    calls: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection:
                        connection.settimeout(5)
                        calls.append(connection.recv(200))

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield server.getsockname()[1], calls
        # Wakes the thread, which is waiting.
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
