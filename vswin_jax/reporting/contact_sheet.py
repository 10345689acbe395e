"""Clips as pictures: a contact sheet with a row for each clip, and a video of them side by side.

Drawn with Pillow, pixel for pixel: the trainer draws a sheet, and small clips must not be blurred.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import av
import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vswin_jax.runtime.atomic_write import whole_file

INK, GREY = (31, 41, 51), (110, 122, 134)
FRAMES_SHOWN = 8
SMALLEST, LARGEST = 128, 160  # pixels a frame's side has on a sheet, if it can be helped
TEXT_WIDTH = 300
GAP, LINE = 4, 18  # pixels between pictures; of a line of text
LABEL_LINES = 4


@dataclass(frozen=True)
class ShownClip:
    """One clip as people see it: frames uint8 `[T, H, W, 3]`, its label, its file and its place."""

    frames: np.ndarray
    label: str
    name: str
    place: str = ""


def draw_sheet(clips: Sequence[ShownClip], title: str) -> np.ndarray:
    """The contact sheet of clips of one length, uint8 `[height, width, 3]`.

    A row has the label, the file and the place in it, then frames spread over the clip, their
    numbers at the top. Frames that are no squares are fitted into one.
    """
    length, size = len(clips[0].frames), min(min(clip.frames.shape[1:3]) for clip in clips)
    chosen = np.linspace(0, length - 1, min(FRAMES_SHOWN, length)).round().astype(int)
    side = min(_enlarged(size, SMALLEST), LARGEST)
    top, step = 2 * LINE + GAP, side + GAP
    left = TEXT_WIDTH + 2 * GAP
    sheet = _blank(top + len(clips) * step, left + len(chosen) * step)
    pen = ImageDraw.Draw(sheet)
    _write(pen, (GAP, 0), title, sheet.width - GAP)
    for column, frame in enumerate(chosen):
        _write(pen, (left + column * step, LINE), f"{frame}", side, GREY)
    for row, clip in enumerate(clips):
        y = top + row * step
        _describe(pen, clip, y)
        for column, frame in enumerate(chosen):
            picture = _fitted(clip.frames[frame], side)
            sheet.paste(Image.fromarray(picture), (left + column * step, y))
    return np.asarray(sheet)


def save_sheet(path: str | os.PathLike, sheet: np.ndarray) -> None:
    """Writes a sheet as PNG; the file appears whole."""
    with whole_file(path) as partial:
        Image.fromarray(sheet).save(partial, format="PNG")


def save_mosaic(path: str | os.PathLike, clips: Sequence[ShownClip], rate: float) -> None:
    """Writes clips of one shape side by side, `rate` frames a second, as H.264 in mp4.

    Every frame of every clip is in it, under it the label and the file; the file appears whole.
    """
    with whole_file(path) as partial, av.open(os.fspath(partial), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(rate).limit_denominator(1001))
        first, *rest = (_mosaic(clips, frame) for frame in range(len(clips[0].frames)))
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "16"}
        for picture in (first, *rest):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def _mosaic(clips: Sequence[ShownClip], frame: int) -> np.ndarray:
    side = _enlarged(clips[0].frames.shape[2], 2 * SMALLEST)
    columns = math.ceil(math.sqrt(len(clips)))
    width, height = side + GAP, side + 2 * LINE + GAP
    picture = _blank(math.ceil(len(clips) / columns) * height, columns * width)
    pen = ImageDraw.Draw(picture)
    for place, clip in enumerate(clips):
        x, y = place % columns * width, place // columns * height
        picture.paste(Image.fromarray(_fitted(clip.frames[frame], side)), (x, y))
        _write(pen, (x, y + side), clip.label, side)
        _write(pen, (x, y + side + LINE), clip.name, side, GREY, keep_end=True)
    return np.asarray(picture)


def _blank(height: int, width: int) -> Image.Image:
    # Chroma of H.264 is halved, so both sides have to be even.
    return Image.new("RGB", (width + width % 2, height + height % 2), "white")


def _enlarged(size: int, least: int) -> int:
    """`size` times the largest whole number that stays within `least`, at least once."""
    return size * max(1, least // size)


def _fitted(frame: np.ndarray, side: int) -> np.ndarray:
    """`frame` with its longer side at `side` pixels, its shape kept."""
    longer = max(frame.shape[:2])
    height, width = (max(1, round(length * side / longer)) for length in frame.shape[:2])
    method = cv2.INTER_NEAREST if side >= longer else cv2.INTER_AREA
    return cv2.resize(frame, (width, height), interpolation=method)


def _describe(pen: ImageDraw.ImageDraw, clip: ShownClip, top: int) -> None:
    lines = _wrap(clip.label, TEXT_WIDTH)
    for place, line in enumerate(lines):
        _write(pen, (GAP, top + place * LINE), line, TEXT_WIDTH)
    below = top + len(lines) * LINE
    _write(pen, (GAP, below), clip.name, TEXT_WIDTH, GREY, keep_end=True)
    _write(pen, (GAP, below + LINE), clip.place, TEXT_WIDTH, GREY)


def _wrap(text: str, width: int) -> list[str]:
    """Lines of whole words that fit `width` pixels; what is over is left to the last line."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        is_last = len(lines) == LABEL_LINES
        if not lines[-1] or is_last or _font().getlength(_printable(longer)) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _write(
    pen: ImageDraw.ImageDraw,
    at: tuple[int, int],
    text: str,
    width: int,
    colour: tuple[int, int, int] = INK,
    *,
    keep_end: bool = False,
) -> None:
    """One line, cut to `width` pixels: of a path the end says most, of other text the beginning."""
    text = _printable(text)
    shown, font = text, _font()
    while text and font.getlength(shown) > width:
        text = text[1:] if keep_end else text[:-1]
        shown = f"…{text}" if keep_end else f"{text}…"
    pen.text(at, shown, fill=colour, font=font)


def _printable(text: str) -> str:
    # The name of a file may hold bytes that are no text, and a line has no line breaks.
    return " ".join(text.encode("utf-8", "replace").decode().split())


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(14)
