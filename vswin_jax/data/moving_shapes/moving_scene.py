"""The scenes of the moving shapes: what an object looks like, where it starts, how it moves.

The object's state (x, y, angle, log-size) is a point on the unit torus. It starts uniformly and
moves at a constant speed along one axis of the torus, one way or the other; the class is the axis
and the way. A uniform point that is shifted stays uniform, so a single frame, whichever it is,
looks alike in every class.
"""

from dataclasses import dataclass

import cv2
import numpy as np

# Direction on the torus (x, y, angle, log-size). The image's y axis points down, so a growing angle
# turns clockwise on the screen.
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

# Per frame, as fractions of the picture's side, a turn, and the range of log-sizes. Over 24 frames
# at 64 pixels: 18 to 54 pixels, 70 to 210 degrees, 0.35 to 1.05 sweeps from smallest to largest.
MEAN_SPEED = np.array([1.5 / 64, 1.5 / 64, 6 / 360, 0.7 / 24])
SPEED_SPREAD = 0.5
MAX_DRIFT = 0.5 / 64
MIN_DIAMETER, MAX_DIAMETER = 0.55, 1.0
SUPERSAMPLING = 2


@dataclass(frozen=True)
class Scene:
    """Everything about a video but its class.

    background: float32 `[S, S, 3]` in 0..255, periodic; sprite: uint8 `[P, P, 4]`, RGB times alpha,
    and alpha; start, speed: `[4]` on the torus of (x, y, angle, log-size); drift: `[2]` in pixels.
    """

    background: np.ndarray
    sprite: np.ndarray
    start: np.ndarray
    speed: np.ndarray
    drift: np.ndarray


def make_scene(rng: np.random.Generator, side: int) -> Scene:
    """A random scene for square pictures of `side` pixels."""
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
    """One video of a scene: uint8 `[num_frames, S, S, 3]`, RGB."""
    times = np.arange(num_frames)[:, None]
    states = (scene.start + times * scene.speed * motion) % 1
    shifts = times * scene.drift
    # Few frames at a time, as the kernel's clearing of larger new arrays takes longer than drawing.
    parts = (slice(i, i + 6) for i in range(0, num_frames, 6))
    return np.concatenate([_frames(scene, states[part], shifts[part]) for part in parts])


def _frames(scene: Scene, states: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    layers = _object_layers(scene.sprite, states, scene.background.shape[0])
    backgrounds = np.stack([_shifted(scene.background, shift) for shift in shifts])
    transparency = 1 - layers[..., 3:] / np.float32(255)
    return np.rint(backgrounds * transparency + layers[..., :3]).astype(np.uint8)


def _texture(
    rng: np.random.Generator, side: int, cycles: int, brightness: list[tuple[int, int]]
) -> np.ndarray:
    """Periodic low-frequency noise between two random colours: float32 `[side, side, 3]`."""
    spectrum = np.zeros((side, side), complex)
    low = np.r_[0 : cycles + 1, side - cycles : side]
    spectrum[np.ix_(low, low)] = rng.normal(size=(len(low), len(low), 2)) @ [1, 1j]
    field = np.fft.ifft2(spectrum).real
    field = (1 + np.tanh(1.5 * field / field.std())) / 2
    dark, light = (_colour(rng, rng.uniform(*bounds)) for bounds in brightness)
    return (dark + field[..., None] * (light - dark)).astype(np.float32)


def _colour(rng: np.random.Generator, brightness: float) -> np.ndarray:
    """A random colour `[3]` of about the given brightness, in 0..255."""
    hue = rng.uniform(-1, 1, 3)
    return np.clip(brightness + 60 * (hue - hue @ [0.299, 0.587, 0.114]), 0, 255)


def _sprite(rng: np.random.Generator, side: int) -> np.ndarray:
    """A random shape with a random texture, for all angles inside its square: `[side, side, 4]`."""
    mask = np.zeros((side * 4, side * 4), np.uint8)
    # A margin of one pixel: what lies outside of the sprite has to be transparent.
    corners = side * 2 + _outline(rng) * (side * 2 - 4)
    cv2.fillPoly(mask, [np.rint(corners).astype(np.int32)], 255)
    alpha = cv2.resize(mask, (side, side), interpolation=cv2.INTER_AREA)[..., None] / 255
    # Brightness away from the background's, on both sides of it: the shape is seen on any scene.
    texture = _texture(rng, side, cycles=2, brightness=[(10, 50), (190, 240)])
    return np.rint(np.concatenate([texture * alpha, 255 * alpha], axis=-1)).astype(np.uint8)


def _outline(rng: np.random.Generator) -> np.ndarray:
    """The corners `[N, 2]` of a random polygon, blob or bar in the unit disc, touching its rim."""
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
    """A periodic picture moved by (x, y) pixels, which need not be whole."""
    side = texture.shape[0]
    matrix = np.float64([[1, 0, -shift[0] % side], [0, 1, -shift[1] % side]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(texture, matrix, (side, side), flags=flags, borderMode=cv2.BORDER_WRAP)


def _object_layers(sprite: np.ndarray, states: np.ndarray, side: int) -> np.ndarray:
    """The sprite at torus states `[T, 4]`: uint8 `[T, side, side, 4]`; edges wrap."""
    fine, frames = side * SUPERSAMPLING, len(states)
    diameter = fine * MIN_DIAMETER * (MAX_DIAMETER / MIN_DIAMETER) ** states[:, 3]
    # Offsets from the object's centre the short way round the torus, in pixels of the sprite.
    offset = (np.arange(fine) + 0.5 - states[:, :2, None] * fine + fine / 2) % fine - fine / 2
    offset *= (len(sprite) / diameter)[:, None, None]
    turn = 2 * np.pi * states[:, 2, None, None]
    along, across = np.float32(offset * np.cos(turn)), np.float32(offset * np.sin(turn))
    centre = np.float32(len(sprite) / 2 - 0.5)
    map_x = (along[:, 0, None, :] + centre) + across[:, 1, :, None]
    map_y = (along[:, 1, :, None] + centre) - across[:, 0, None, :]
    # Frames under one another are one tall picture: one call for all of them.
    maps = (m.reshape(frames * fine, fine) for m in (map_x, map_y))
    layers = cv2.remap(sprite, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    layers = cv2.resize(layers, (side, frames * side), interpolation=cv2.INTER_AREA)
    return layers.reshape(frames, side, side, 4)
