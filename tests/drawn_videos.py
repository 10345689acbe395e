"""Small videos of many kinds, drawn from a seed, and the frames that `ffmpeg` gives for them."""

import contextlib
import random
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from coded_pictures import copy_packets

# Each codec's containers and pixel formats.
CODECS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "libx264": (
        ("mp4", "mov", "mkv", "ts", "m2ts", "avi", "flv", "f4v", "3gp"),
        (
            *("yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p", "gray"),
            *("yuv420p10le", "yuv422p10le", "yuv444p10le", "gray10le"),
        ),
    ),
    "libx264rgb": (("mkv", "mp4"), ("bgr24",)),
    "libx265": (
        ("mp4", "mkv", "ts"),
        ("yuv420p", "yuv420p10le", "yuv422p10le", "gbrp", "gray12le"),
    ),
    "libvpx": (("webm", "mkv"), ("yuv420p",)),
    "libvpx-vp9": (("webm", "mp4"), ("yuv420p", "yuv422p", "yuv440p", "yuv444p", "gbrp")),
    "mpeg4": (("avi", "mp4", "mkv"), ("yuv420p",)),
    "mpeg2video": (("ts", "mpg", "vob", "mkv"), ("yuv420p", "yuv422p")),
    "mpeg1video": (("mpg",), ("yuv420p",)),
    "mjpeg": (("avi", "mov", "mkv"), ("yuvj420p", "yuvj422p", "yuvj444p")),
    "wmv2": (("asf", "wmv"), ("yuv420p",)),
    "flv": (("flv",), ("yuv420p",)),
    "ffv1": (
        ("mkv", "avi"),
        (
            *("yuv420p", "yuv411p", "yuv410p", "yuv440p", "yuva420p", "yuva444p10le", "gray"),
            *("gray16le", "yuv420p12le", "yuv444p16le", "bgr0", "bgra", "gbrp10le", "rgb48le"),
        ),
    ),
    "rawvideo": (
        ("avi", "nut"),
        ("yuv420p", "nv12", "uyvy422", "yuyv422", "bgr24", "rgb24", "gray", "rgb555le", "p010le"),
    ),
    "png": (("mov", "avi"), ("rgb24", "rgba", "rgb48be", "gray", "gray16be", "ya8", "monob")),
    "qtrle": (("mov",), ("rgb24", "argb")),
    "prores_ks": (("mov",), ("yuv422p10le", "yuv444p10le", "yuva444p10le")),
    "huffyuv": (("avi",), ("yuv422p", "rgb24")),
    "gif": (("gif",), ("rgb8",)),
    "apng": (("apng",), ("rgb24", "rgba")),
}
FORMATS = {"m2ts": "mpegts", "ts": "mpegts", "mkv": "matroska", "mpg": "mpeg", "wmv": "asf"}
HAS_B_FRAMES = ("libx264", "libx264rgb", "libx265", "mpeg4", "mpeg2video", "mpeg1video")
COPIED = ("libx264", "mpeg4", "mpeg2video")
HAS_MATRIX = ("mp4", "mov", "f4v", "3gp")
TAGGED = ("libx264", "libx265", "mpeg2video", "libvpx-vp9", "ffv1", "prores_ks")
# The eight orientations of EXIF, and angles between them.
ORIENTATIONS = tuple((angle, flip) for angle in (0, 90, 180, 270) for flip in (False, True))
ODD_ANGLES = ((10, False), (45, False), (135, True), (1, False), (89, False))
# Unspecified, BT.709, FCC, BT.470BG, SMPTE 170M, SMPTE 240M, BT.2020.
COLORSPACES = (2, 1, 4, 5, 6, 7, 9)
TRANSFERS = (2, 1, 16, 18)  # unspecified, BT.709, PQ, HLG


@dataclass(frozen=True)
class DrawnVideo:
    """The properties of a video file.

    Attributes:
      codec: the encoder's name in FFmpeg.
      container: the suffix of the file's name.
      pixel_format: the name in FFmpeg.
      width: in pixels, before the display matrix applies.
      height: in pixels, before the display matrix applies.
      count: the number of frames that are encoded.
      rate: frames a second.
      gop: frames from one key frame to the next.
      b_frames: the largest number of B-frames in succession.
      start: the time of the first frame, in frames; an edit list cuts those before time 0.
      orientation: degrees counterclockwise, and True to mirror left and right afterwards.
      colorspace: the value of FFmpeg's enumeration.
      color_range: the value of FFmpeg's enumeration.
      transfer: the value of FFmpeg's enumeration of transfer characteristics.
      is_interlaced: the encoder stores fields.
      copied_to: the container to which the packets are copied, as `ffmpeg -c copy` does; or none.
      is_ascending: the copy's time stamps ascend in decode order, as those of AVI do.
      kept: the part of the file's bytes that is kept.
      has_gaps: every third frame is shown for twice as long.
    """

    codec: str = "libx264"
    container: str = "mp4"
    pixel_format: str = "yuv420p"
    width: int = 48
    height: int = 32
    count: int = 8
    rate: Fraction = Fraction(25)
    gop: int = 12
    b_frames: int = 0
    start: int = 0
    orientation: tuple[float, bool] | None = None
    colorspace: int = 2
    color_range: int = 0
    transfer: int = 2
    is_interlaced: bool = False
    copied_to: str = ""
    is_ascending: bool = False
    kept: float = 1.0
    has_gaps: bool = False


def draw(seed: int) -> DrawnVideo:
    """Draw a video's properties; a third are H.264."""
    rng = random.Random(seed)
    codec = rng.choice(("libx264",) * 9 + tuple(CODECS))
    containers, formats = CODECS[codec]
    container, pixel_format = rng.choice(containers), rng.choice(formats)
    is_interlaced = codec in ("libx264", "mpeg2video") and rng.random() < 0.2
    is_copied = codec in COPIED and rng.random() < 0.2
    return DrawnVideo(
        codec=codec,
        container=container,
        pixel_format=pixel_format,
        width=_draw_side(rng, codec, pixel_format),
        height=_draw_side(rng, codec, pixel_format, 4 if is_interlaced else 1),
        count=rng.randint(5, 30),
        rate=rng.choice((Fraction(25), Fraction(30000, 1001), Fraction(24), Fraction(50))),
        gop=rng.choice((1, 4, 12, 250)),
        b_frames=rng.randint(0, 3) if codec in HAS_B_FRAMES and container != "flv" else 0,
        start=rng.choice((0, 0, 0, 7, -3)) if container in ("mp4", "mov", "mkv", "ts") else 0,
        orientation=_draw_orientation(rng, container),
        **_draw_tags(rng, codec, pixel_format),
        is_interlaced=is_interlaced,
        copied_to=rng.choice(("mp4", "mkv", "mov")) if is_copied else "",
        is_ascending=is_copied and rng.random() < 0.5,
        kept=rng.uniform(0.1, 1) if rng.random() < 0.1 else 1.0,
        has_gaps=rng.random() < 0.15,
    )


def _draw_orientation(rng: random.Random, container: str) -> tuple[float, bool] | None:
    if container not in HAS_MATRIX or rng.random() < 0.4:
        return None
    return rng.choice((*ORIENTATIONS * 2, *ODD_ANGLES))


def _draw_tags(rng: random.Random, codec: str, pixel_format: str) -> dict[str, int]:
    if codec not in TAGGED or rng.random() < 0.5:
        return {}
    tags = {"transfer": rng.choice(TRANSFERS)}
    if _is_yuv(pixel_format):
        tags["colorspace"] = rng.choice(COLORSPACES)
    # The pixel formats yuvj* state the range themselves.
    if "j" not in pixel_format:
        tags["color_range"] = rng.choice((0, 1, 2))
    return tags


def _is_yuv(pixel_format: str) -> bool:
    return not pixel_format.startswith(("rgb", "bgr", "gbr", "argb", "mono"))


def _draw_side(rng: random.Random, codec: str, pixel_format: str, multiple: int = 1) -> int:
    # x265 writes past its memory for frames that are smaller than its blocks of 64.
    side = rng.randint(64, 80) if codec == "libx265" else rng.randint(16, 64)
    # These encoders refuse odd sizes.
    is_even = codec in ("libx264", "libx265", "huffyuv", "wmv2") and "j444" not in pixel_format
    multiple = max(multiple, 2 if is_even else 1)
    return side // multiple * multiple


def picture(index: int, height: int, width: int) -> np.ndarray:
    """Return moving coloured waves and a box with sharp edges, uint8 RGB [H, W, 3]."""
    y, x = np.mgrid[:height, :width]
    waves = [127 + 120 * np.sin((x * (c + 1) + 2 * y + 4 * index) / 7 + c) for c in range(3)]
    image = np.stack(waves, -1).astype(np.uint8)
    left = index * 5 % (width - 8)
    image[3:12, left : left + 7] = (230, 30, (60 + 6 * index) % 256)
    return image


def write(video: DrawnVideo, path: Path) -> Path:
    """Encode a video into a file of the suffix `video.container`."""
    path = path.with_suffix(f".{video.container}")
    file_format = FORMATS.get(video.container)
    with av.open(str(path), "w", format=file_format) as container:
        stream = _add_stream(container, video)
        reformatter = VideoReformatter()
        for index in range(video.count):
            rgb = av.VideoFrame.from_ndarray(
                picture(index, video.height, video.width), format="rgb24"
            )
            frame = reformatter.reformat(rgb, format=video.pixel_format, threads=1)
            time = index + index // 3 if video.has_gaps else index
            frame.pts, frame.time_base = time + video.start, 1 / video.rate
            frame.color_range, frame.color_trc = video.color_range, video.transfer
            if _is_yuv(video.pixel_format):
                frame.colorspace = video.colorspace
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    if video.copied_to:
        copy = path.with_suffix(f".copy.{video.copied_to}")
        # Some containers lack what others need, such as time stamps of every packet.
        with contextlib.suppress(av.FFmpegError):
            path = copy_packets(path, copy, ascending=video.is_ascending)
    if video.kept < 1:
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * video.kept)])
    return path


def _add_stream(container: av.container.OutputContainer, video: DrawnVideo) -> av.VideoStream:
    stream = container.add_stream(video.codec, rate=video.rate, options=_options(video))
    stream.width, stream.height = video.width, video.height
    stream.pix_fmt = video.pixel_format
    codec = stream.codec_context
    codec.thread_count = 1
    codec.gop_size = video.gop
    if video.codec in HAS_B_FRAMES:
        codec.max_b_frames = video.b_frames
    if _is_yuv(video.pixel_format):
        codec.colorspace = video.colorspace
    codec.color_range, codec.color_trc = video.color_range, video.transfer
    if video.orientation:
        degrees, is_mirrored = video.orientation
        stream.set_display_rotation(degrees, hflip=is_mirrored)
    return stream


def _options(video: DrawnVideo) -> dict[str, str]:
    options = {}
    if video.codec == "libx264":
        options = {"preset": "veryfast", "crf": "20"}
        if video.is_interlaced:
            options["x264-params"] = "tff=1"
    if video.codec == "libx265":
        options = {
            "preset": "ultrafast",
            "x265-params": "log-level=none:pools=none:frame-threads=1",
        }
    if video.is_interlaced:
        options["flags"] = "+ildct+ilme"
    if video.codec.startswith("libvpx"):
        options = {"deadline": "realtime", "cpu-used": "8"}
    return options


def ffmpeg_frames(program: str, paths: Sequence[Path], scratch: Path) -> list[list[np.ndarray]]:
    """Return the frames that `ffmpeg` gives for each file, uint8 RGB [H, W, 3]; maybe none."""
    outputs = [scratch / f"{path.name}.ppm" for path in paths]
    arguments = [program, "-v", "error", "-nostdin", "-y"]
    for path in paths:
        arguments += ["-threads", "1", "-i", str(path)]
    for index, output in enumerate(outputs):
        arguments += ["-map", f"{index}:V:0", "-fps_mode", "passthrough", "-pix_fmt", "rgb24"]
        arguments += ["-f", "image2pipe", "-c:v", "ppm", "-threads", "1", str(output)]
    done = subprocess.run(arguments, capture_output=True, check=False)
    # One bad file ends the program for all.
    if done.returncode and len(paths) > 1:
        return [ffmpeg_frames(program, [path], scratch)[0] for path in paths]
    return [_read_pictures(output) for output in outputs]


def _read_pictures(path: Path) -> list[np.ndarray]:
    """Read concatenated PPM images, whose headers are `P6 WIDTH HEIGHT 255` and white space."""
    data = path.read_bytes() if path.exists() else b""
    pictures = []
    position = 0
    while position < len(data):
        _, width, height, _ = data[position : position + 40].split()[:4]
        position = data.index(b"255\n", position) + 4
        size = int(width) * int(height) * 3
        pixels = np.frombuffer(data, np.uint8, size, position)
        pictures.append(pixels.reshape(int(height), int(width), 3))
        position += size
    return pictures


def write_broken(path: Path, count: int = 12, first: int = 4) -> None:
    """Write a video that can be opened, and whose frames from `first` on cannot be decoded."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("png", rate=12)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "rgb24"
        for _ in range(count):
            picture = np.zeros((32, 32, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    content = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        for packet in [packet for packet in container.demux(video=0) if packet.size][first:-3]:
            content[packet.pos : packet.pos + packet.size] = b"\xff" * packet.size
    path.write_bytes(content)
