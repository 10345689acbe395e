"""Maps drawn over the frames of a clip: a strip of frames above overlays, and a video."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image, ImageDraw

from vswin_jax.reporting.contact_sheet import (
    FRAMES_SHOWN,
    GAP,
    GREY,
    LINE,
    blank_picture,
    enlarged_size,
    fit_frame,
    write_line,
)

# Sides of a frame in pixels: small clips are enlarged by a whole factor, large ones are reduced.
_SMALLEST, _LARGEST = 192, 256
_OPACITY = 0.7
_LINE_COLOURS = {1: (255, 255, 255), 2: (0, 255, 255)}
_BAR = 120  # pixels of the scale's width


@dataclass(frozen=True)
class OverlaidClip:
    """A clip, its map and its captions.

    Attributes:
      frames: RGB.
      heat: from 0 to 1.
      outline: areas to draw lines around, 1 and 2; or None.
      title: the first caption.
      caption: the second one.
    """

    frames: UInt8[np.ndarray, "T H W 3"]
    heat: Float32[np.ndarray, "T H W"]
    outline: Float32[np.ndarray, "T H W"] | None
    title: str
    caption: str


def draw_strip(clip: OverlaidClip) -> UInt8[np.ndarray, "height width 3"]:
    """Draw frames spread over the clip, with their numbers, above the same frames with the map."""
    length = len(clip.frames)
    chosen = np.linspace(0, length - 1, min(FRAMES_SHOWN, length)).round().astype(int)
    pictures = [(_enlarged(clip, index), _overlaid(clip, index)) for index in chosen]
    height, width = pictures[0][0].shape[:2]
    top = 3 * LINE + 2 * GAP
    strip = blank_picture(top + 2 * (height + GAP) + GAP, len(chosen) * (width + GAP) + GAP)
    _write_captions(strip, clip, strip.width)
    pen = ImageDraw.Draw(strip)
    for column, (index, pair) in enumerate(zip(chosen, pictures, strict=True)):
        x = GAP + column * (width + GAP)
        write_line(pen, (x, 2 * LINE + GAP), f"frame {index}", width, GREY)
        for row, picture in enumerate(pair):
            strip.paste(Image.fromarray(picture), (x, top + row * (height + GAP)))
    return np.asarray(strip)


def draw_video(clip: OverlaidClip) -> Sequence[UInt8[np.ndarray, "height width 3"]]:
    """Draw each frame of the clip beside the same frame with the map."""
    return [_draw_pair(clip, index) for index in range(len(clip.frames))]


def _draw_pair(clip: OverlaidClip, index: int) -> np.ndarray:
    frame, overlaid = _enlarged(clip, index), _overlaid(clip, index)
    height, width = frame.shape[:2]
    picture = blank_picture(2 * LINE + 2 * GAP + height, 2 * width + 3 * GAP)
    _write_captions(picture, clip, picture.width)
    for x, half in ((GAP, frame), (width + 2 * GAP, overlaid)):
        picture.paste(Image.fromarray(half), (x, 2 * LINE + GAP))
    return np.asarray(picture)


def _write_captions(picture: Image.Image, clip: OverlaidClip, width: int) -> None:
    pen, text_width = ImageDraw.Draw(picture), width - _BAR - 4 * GAP
    write_line(pen, (GAP, 1), clip.title, text_width)
    write_line(pen, (GAP, LINE), clip.caption, text_width, GREY)
    scale = np.tile(np.linspace(0, 1, _BAR, dtype=np.float32), (LINE // 2, 1))
    x = width - _BAR - GAP
    picture.paste(Image.fromarray(_colours(scale)), (x, GAP))
    write_line(pen, (x, LINE), "0", _BAR, GREY)
    write_line(pen, (x + _BAR - 24, LINE), "max", _BAR, GREY)


def _side(clip: OverlaidClip) -> int:
    return min(enlarged_size(max(clip.frames.shape[1:3]), _SMALLEST), _LARGEST)


def _enlarged(clip: OverlaidClip, index: int) -> np.ndarray:
    return fit_frame(clip.frames[index], _side(clip))


def _overlaid(clip: OverlaidClip, index: int) -> np.ndarray:
    """Draw the map over the frame in grey; the hotter a pixel, the less of the frame is seen."""
    grey = cv2.cvtColor(_enlarged(clip, index), cv2.COLOR_RGB2GRAY)[..., None].astype(np.float32)
    size = grey.shape[1::-1]
    method = cv2.INTER_LINEAR if clip.outline is None else cv2.INTER_NEAREST
    heat = np.clip(cv2.resize(clip.heat[index], size, interpolation=method), 0, 1)
    opacity = _OPACITY * np.sqrt(heat)[..., None]
    picture = np.rint(grey * (1 - opacity) + _colours(heat) * opacity).astype(np.uint8)
    if clip.outline is not None:
        _draw_outlines(picture, cv2.resize(clip.outline[index], size, interpolation=method))
    return picture


def _colours(heat: np.ndarray) -> np.ndarray:
    levels = np.rint(255 * heat).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB)


def _draw_outlines(picture: np.ndarray, outline: np.ndarray) -> None:
    for level, colour in _LINE_COLOURS.items():
        area = (outline >= level).astype(np.uint8)
        borders, _ = cv2.findContours(area, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, borders, -1, colour, thickness=1 + (level > 1))
