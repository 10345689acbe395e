"""Scenes of the moving shapes: appearance, start and motion of an object, and their rendering.

The object's state (x, y, angle, log-size) is a point on the unit torus. Its start is uniform, and
it moves at a constant speed along one axis of the torus; the class is the axis and the direction.
A shifted uniform point is uniform, so a single frame has the same distribution in every class.
"""

from dataclasses import dataclass

import cv2
import numpy as np

# Direction on the torus (x, y, angle, log-size). The image's y axis points down, so an increasing
# angle is a clockwise rotation on the screen.
MOTIONS: dict[str, tuple[int, int, int, int]] = {
    "move_left": (-1, 0, 0, 0),
    "move_right": (1, 0, 0, 0),
    "move_up": (0, -1, 0, 0),
    "move_down": (0, 1, 0, 0),
    "rotate_clockwise": (0, 0, 1, 0),
    "rotate_counterclockwise": (0, 0, -1, 0),
    "grow": (0, 0, 0, 1),
    "shrink": (0, 0, 0, -1),
}

# Per frame, as fractions of the frame's side, a full rotation, and the range of log-sizes. Over 24
# frames of 64 pixels: 18 to 54 pixels, 70 to 210 degrees, 0.35 to 1.05 of the range of sizes.
MEAN_SPEED = np.array([1.5 / 64, 1.5 / 64, 6 / 360, 0.7 / 24])
SPEED_SPREAD = 0.5
MAX_DRIFT = 0.5 / 64
MIN_DIAMETER, MAX_DIAMETER = 0.55, 1.0
SUPERSAMPLING = 2


@dataclass(frozen=True)
class Scene:
    """The parameters of a video other than its class.

    Attributes:
      background: float32 `[S, S, 3]` in 0..255, periodic.
      sprite: uint8 `[P, P, 4]`, RGB times alpha, and alpha.
      start: state `[4]` in the first frame, on the torus of (x, y, angle, log-size).
      speed: change of the state `[4]` per frame.
      drift: movement `[2]` of the background per frame, in pixels.
    """

    background: np.ndarray
    sprite: np.ndarray
    start: np.ndarray
    speed: np.ndarray
    drift: np.ndarray


def make_scene(rng: np.random.Generator, side: int) -> Scene:
    """Sample a scene for square frames of `side` pixels."""
    spread = rng.uniform(1 - SPEED_SPREAD, 1 + SPEED_SPREAD, 4)
    heading = rng.uniform(0, 2 * np.pi)
    distance = rng.uniform(0, MAX_DRIFT) * side
    return Scene(
        background=_texture(rng, side, cycles=3, brightness=[(80, 120), (120, 160)]),
        sprite=_sprite(rng, int(side * MAX_DIAMETER) * SUPERSAMPLING),
        start=rng.uniform(0, 1, 4),
        speed=MEAN_SPEED * spread,
        drift=distance * np.array([np.cos(heading), np.sin(heading)]),
    )


def render(scene: Scene, motion: tuple[int, int, int, int], num_frames: int) -> np.ndarray:
    """Render one video of a scene: uint8 `[num_frames, S, S, 3]`, RGB."""
    times = np.arange(num_frames)[:, None]
    states = (scene.start + times * scene.speed * motion) % 1
    shifts = times * scene.drift
    # Few frames at a time: the kernel zeroes larger new arrays, which takes longer than drawing.
    chunks = (slice(i, i + 6) for i in range(0, num_frames, 6))
    return np.concatenate([_frames(scene, states[chunk], shifts[chunk]) for chunk in chunks])


def object_boxes(scene: Scene, motion: tuple[int, int, int, int], num_frames: int) -> np.ndarray:
    """Return the object's bounding box in each frame of `render`, bool `[num_frames, S, S]`.

    Like the object, a box that crosses an edge goes on at the opposite one.
    """
    states = (scene.start + np.arange(num_frames)[:, None] * scene.speed * motion) % 1
    layers = _object_layers(scene.sprite, states, scene.background.shape[0])
    return np.stack([_box(*pair) for pair in zip(layers[..., 3] > 127, states, strict=True)])


def _box(mask: np.ndarray, state: np.ndarray) -> np.ndarray:
    """Return the box around `mask`, cut open opposite to the object's centre."""
    side = len(mask)
    column, row = np.rint(state[:2] * side - side / 2).astype(int)
    centred = np.roll(mask, (-row, -column), (0, 1))
    box = np.zeros_like(mask)
    rows, columns = (np.flatnonzero(centred.any(axis)) for axis in (1, 0))
    box[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
    return np.roll(box, (row, column), (0, 1))


def _frames(scene: Scene, states: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    layers = _object_layers(scene.sprite, states, scene.background.shape[0])
    backgrounds = np.stack([_shifted(scene.background, shift) for shift in shifts])
    transparency = 1 - layers[..., 3:] / np.float32(255)
    return np.rint(backgrounds * transparency + layers[..., :3]).astype(np.uint8)


def _texture(
    rng: np.random.Generator, side: int, cycles: int, brightness: list[tuple[int, int]]
) -> np.ndarray:
    """Sample periodic low-frequency noise between two colours: float32 `[side, side, 3]`."""
    spectrum = np.zeros((side, side), complex)
    low = np.r_[0 : cycles + 1, side - cycles : side]
    spectrum[np.ix_(low, low)] = rng.normal(size=(len(low), len(low), 2)) @ [1, 1j]
    field = np.fft.ifft2(spectrum).real
    field = (1 + np.tanh(1.5 * field / field.std())) / 2
    dark, light = (_colour(rng, rng.uniform(*bounds)) for bounds in brightness)
    return (dark + field[..., None] * (light - dark)).astype(np.float32)


def _colour(rng: np.random.Generator, brightness: float) -> np.ndarray:
    """Sample a colour `[3]` in 0..255 of about the given brightness."""
    hue = rng.uniform(-1, 1, 3)
    return np.clip(brightness + 60 * (hue - hue @ [0.299, 0.587, 0.114]), 0, 255)


def _sprite(rng: np.random.Generator, side: int) -> np.ndarray:
    """Sample a textured shape that stays inside its square at all angles: `[side, side, 4]`."""
    mask = np.zeros((side * 4, side * 4), np.uint8)
    # A margin of one pixel, because everything outside of the sprite has to be transparent.
    corners = side * 2 + _outline(rng) * (side * 2 - 4)
    cv2.fillPoly(mask, [np.rint(corners).astype(np.int32)], 255)
    alpha = cv2.resize(mask, (side, side), interpolation=cv2.INTER_AREA)[..., None] / 255
    # Darker and brighter than every background, so that the shape is visible in all scenes.
    texture = _texture(rng, side, cycles=2, brightness=[(10, 50), (190, 240)])
    return np.rint(np.concatenate([texture * alpha, 255 * alpha], axis=-1)).astype(np.uint8)


def _outline(rng: np.random.Generator) -> np.ndarray:
    """Sample the corners `[N, 2]` of a polygon, blob or bar that touches the unit circle."""
    kind = rng.integers(3)
    if kind == 0:
        count = rng.integers(3, 8)
        angle = (np.arange(count) + rng.uniform(-0.25, 0.25, count)) * 2 * np.pi / count
        radius = rng.uniform(0.7, 1, count)
    elif kind == 1:
        angle = np.linspace(0, 2 * np.pi, 64, endpoint=False)
        waves = np.arange(2, 6)
        phase = rng.uniform(0, 2 * np.pi, 4)
        radius = 1 + np.cos(angle[:, None] * waves + phase) @ (rng.uniform(0, 0.6, 4) / waves)
    else:
        half = np.arctan(rng.uniform(0.35, 0.65))
        angle = np.array([half, np.pi - half, np.pi + half, -half])
        radius = np.ones(4)
    corners = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    return corners / np.abs(radius).max()


def _shifted(texture: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Shift a periodic image by (x, y) pixels, which may be fractions."""
    side = texture.shape[0]
    matrix = np.float64([[1, 0, -shift[0] % side], [0, 1, -shift[1] % side]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(texture, matrix, (side, side), flags=flags, borderMode=cv2.BORDER_WRAP)


def _object_layers(sprite: np.ndarray, states: np.ndarray, side: int) -> np.ndarray:
    """Render the sprite at torus states `[T, 4]`, wrapped at edges: uint8 `[T, side, side, 4]`."""
    fine, frames = side * SUPERSAMPLING, len(states)
    diameter = fine * MIN_DIAMETER * (MAX_DIAMETER / MIN_DIAMETER) ** states[:, 3]
    # Offsets from the object's centre by the shorter way on the torus, in pixels of the sprite.
    offset = (np.arange(fine) + 0.5 - states[:, :2, None] * fine + fine / 2) % fine - fine / 2
    offset *= (len(sprite) / diameter)[:, None, None]
    angle = 2 * np.pi * states[:, 2, None, None]
    along, across = np.float32(offset * np.cos(angle)), np.float32(offset * np.sin(angle))
    centre = np.float32(len(sprite) / 2 - 0.5)
    map_x = (along[:, 0, None, :] + centre) + across[:, 1, :, None]
    map_y = (along[:, 1, :, None] + centre) - across[:, 0, None, :]
    # The frames are stacked into one tall image, so that one call renders all of them.
    maps = (m.reshape(frames * fine, fine) for m in (map_x, map_y))
    layers = cv2.remap(sprite, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    layers = cv2.resize(layers, (side, frames * side), interpolation=cv2.INTER_AREA)
    return layers.reshape(frames, side, side, 4)
