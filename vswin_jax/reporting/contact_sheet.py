"""Clips for people to look at: a contact sheet with a row for each clip, and a video of all clips.

They are drawn with Pillow: Matplotlib would resample the pixels, and so blur small clips.
"""

import io
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import av
import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vswin_jax.runtime.atomic_write import atomic_write
from vswin_jax.runtime.printable import printable

INK, GREY = (31, 41, 51), (110, 122, 134)
FRAMES_SHOWN = 8
# Sides of a frame on a sheet, in pixels: a small frame is enlarged by a whole factor up to about
# SMALLEST, and a large one is reduced to LARGEST.
SMALLEST, LARGEST = 128, 160
TEXT_WIDTH = 300  # pixels
GAP, LINE = 4, 18  # pixels between pictures, and of a line of text
LABEL_LINES = 4


@dataclass(frozen=True)
class ShownClip:
    """A clip with its captions.

    Attributes:
      frames: uint8 `[T, H, W, 3]`.
      label: the first caption, a class or an augmentation.
      name: the second one, a file or a setting.
      position: the third one, the part of the video, or "".
    """

    frames: np.ndarray
    label: str
    name: str
    position: str = ""


def draw_sheet(clips: Sequence[ShownClip], title: str) -> np.ndarray:
    """Draw the contact sheet of clips of one length, uint8 `[height, width, 3]`.

    A row has the captions of a clip and frames spread over it, with their numbers at the top.
    Frames keep their aspect ratio and are fitted into squares.
    """
    length, size = len(clips[0].frames), min(min(clip.frames.shape[1:3]) for clip in clips)
    chosen = np.linspace(0, length - 1, min(FRAMES_SHOWN, length)).round().astype(int)
    side = min(enlarged_size(size, SMALLEST), LARGEST)
    top, step = 2 * LINE + GAP, side + GAP
    left = TEXT_WIDTH + 2 * GAP
    sheet = blank_picture(top + len(clips) * step, left + len(chosen) * step)
    pen = ImageDraw.Draw(sheet)
    write_line(pen, (GAP, 0), title, sheet.width - GAP)
    for column, frame in enumerate(chosen):
        write_line(pen, (left + column * step, LINE), f"{frame}", side, GREY)
    for row, clip in enumerate(clips):
        y = top + row * step
        _describe(pen, clip, y)
        for column, frame in enumerate(chosen):
            picture = fit_frame(clip.frames[frame], side)
            sheet.paste(Image.fromarray(picture), (left + column * step, y))
    return np.asarray(sheet)


def save_sheet(path: str | os.PathLike, sheet: np.ndarray) -> None:
    """Write a sheet as PNG, atomically."""
    with atomic_write(path) as partial:
        partial.write_bytes(encode_sheet(sheet))


def encode_sheet(sheet: np.ndarray) -> bytes:
    """Return a sheet as the bytes of a PNG."""
    content = io.BytesIO()
    Image.fromarray(sheet).save(content, format="PNG")
    return content.getvalue()


def save_mosaic(path: str | os.PathLike, clips: Sequence[ShownClip], rate: float) -> None:
    """Write clips of one shape side by side as H.264 in mp4, atomically; `rate` is in frames/s.

    The video has every frame of every clip, with the label and the file below.
    """
    save_pictures(path, [_mosaic(clips, frame) for frame in range(len(clips[0].frames))], rate)


def save_pictures(path: str | os.PathLike, pictures: Sequence[np.ndarray], rate: float) -> None:
    """Write pictures of one even size as H.264 in mp4, atomically; `rate` is in frames/s."""
    with atomic_write(path) as partial, av.open(os.fspath(partial), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(rate).limit_denominator(1001))
        first, *rest = pictures
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "16"}
        for picture in (first, *rest):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def _mosaic(clips: Sequence[ShownClip], frame: int) -> np.ndarray:
    side = enlarged_size(clips[0].frames.shape[2], 2 * SMALLEST)
    columns = math.ceil(math.sqrt(len(clips)))
    width, height = side + GAP, side + 2 * LINE + GAP
    picture = blank_picture(math.ceil(len(clips) / columns) * height, columns * width)
    pen = ImageDraw.Draw(picture)
    for index, clip in enumerate(clips):
        x, y = index % columns * width, index // columns * height
        picture.paste(Image.fromarray(fit_frame(clip.frames[frame], side)), (x, y))
        write_line(pen, (x, y + side), clip.label, side)
        write_line(pen, (x, y + side + LINE), clip.name, side, GREY, keep_end=True)
    return np.asarray(picture)


def blank_picture(height: int, width: int) -> Image.Image:
    """Return a white picture with even sides of at least this size."""
    # H.264 stores colour at half the resolution, so both sides have to be even.
    return Image.new("RGB", (width + width % 2, height + height % 2), "white")


def enlarged_size(size: int, least: int) -> int:
    """Return `size` times the largest whole factor, at least 1, that stays within `least`."""
    return size * max(1, least // size)


def fit_frame(frame: np.ndarray, side: int) -> np.ndarray:
    """Resize `frame` to a longer side of `side` pixels, with its aspect ratio kept."""
    longer = max(frame.shape[:2])
    height, width = (max(1, round(length * side / longer)) for length in frame.shape[:2])
    # Enlarged pixels stay sharp; reduced ones are averaged.
    method = cv2.INTER_NEAREST if side >= longer else cv2.INTER_AREA
    return cv2.resize(frame, (width, height), interpolation=method)


def _describe(pen: ImageDraw.ImageDraw, clip: ShownClip, top: int) -> None:
    lines = _wrap(clip.label, TEXT_WIDTH)
    for index, line in enumerate(lines):
        write_line(pen, (GAP, top + index * LINE), line, TEXT_WIDTH)
    below = top + len(lines) * LINE
    write_line(pen, (GAP, below), clip.name, TEXT_WIDTH, GREY, keep_end=True)
    write_line(pen, (GAP, below + LINE), clip.position, TEXT_WIDTH, GREY)


def _wrap(text: str, width: int) -> list[str]:
    """Split text into lines of whole words within `width` pixels; the last line may be longer."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        is_last = len(lines) == LABEL_LINES
        if not lines[-1] or is_last or _font().getlength(printable(longer)) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def write_line(
    pen: ImageDraw.ImageDraw,
    at: tuple[int, int],
    text: str,
    width: int,
    colour: tuple[int, int, int] = INK,
    *,
    keep_end: bool = False,
) -> None:
    """Write one line of text, cut to `width` pixels at its end, or with `keep_end` at its start."""
    text = printable(text)
    shown, font = text, _font()
    while text and font.getlength(shown) > width:
        text = text[1:] if keep_end else text[:-1]
        shown = f"…{text}" if keep_end else f"{text}…"
    pen.text(at, shown, fill=colour, font=font)


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(14)
