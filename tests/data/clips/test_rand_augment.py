from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from vswin_jax.data.clips.rand_augment import OPERATIONS, rand_augment
from vswin_jax.errors import InputError


def make_clip(frames: int = 3, height: int = 48, width: int = 64) -> np.ndarray:
    """Sample smooth coloured noise from 20 to 220, uint8 [T, H, W, 3]."""
    rng = np.random.default_rng(5)
    coarse = rng.uniform(20, 220, (frames, 6, 8, 3)).astype(np.float32)
    return np.stack([cv2.resize(f, (width, height)) for f in coarse]).astype(np.uint8)


def apply(name: str, clip: np.ndarray, m: int = 7, seed: int = 0) -> np.ndarray:
    return OPERATIONS[name](clip, m, np.random.default_rng(seed))


def both_signs(name: str, clip: np.ndarray, m: int = 7) -> list[np.ndarray]:
    """Return the results of both random signs, in no particular order."""
    results = {apply(name, clip, m, seed).tobytes() for seed in range(20)}
    assert len(results) == 2
    return [np.frombuffer(r, np.uint8).reshape(clip.shape) for r in results]


def matches(results: list[np.ndarray], expected: list[np.ndarray]) -> bool:
    """Return True if the two results are the two expected ones, in any order."""
    return any(
        all(np.array_equal(r, e) for r, e in zip(order, expected, strict=True))
        for order in (results, results[::-1])
    )


def with_pillow(clip: np.ndarray, function: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(function(Image.fromarray(frame))) for frame in clip])


def test_there_are_the_eighteen_operations_of_the_reference() -> None:
    assert list(OPERATIONS) == [
        *("identity", "autocontrast", "equalize", "invert", "rotate", "posterize", "solarize"),
        *("color", "contrast", "brightness", "sharpness"),
        *("shear_x", "shear_y", "translate_x", "translate_y", "cutout", "blur", "smooth"),
    ]


@pytest.mark.parametrize("name", sorted(OPERATIONS.keys() - {"cutout"}))
def test_operations_are_those_of_imgaug_to_the_last_bit(name: str) -> None:
    """Compare with imgaug frame by frame for either sign; see `write_imgaug.py` for the file."""
    with np.load(Path(__file__).parents[1] / "imgaug.npz") as imgaug:
        clip, expected = imgaug["clip"], imgaug[name]
    results = {apply(name, clip, 7, seed).tobytes() for seed in range(20)}
    assert results == {clip.tobytes() for clip in expected}


def test_operations_that_depend_on_the_whole_frame() -> None:
    """Constant pixels keep their colours within a clip except under three of the operations."""
    clip = make_clip(frames=3, height=48, width=96)
    clip[:, :, :48] = clip[:1, :, :48]
    clip[1, :, 48:] //= 4
    changing = set()
    for name in OPERATIONS:
        # Far from the changing pixels, and from edges that an operation moves into the frame.
        constant = apply(name, clip)[:, 8:-8, 12:32]
        if (constant != constant[:1]).any():
            changing.add(name)
    assert changing == {"autocontrast", "equalize", "contrast"}


def test_identity_and_invert() -> None:
    clip = make_clip()
    np.testing.assert_array_equal(apply("identity", clip), clip)
    np.testing.assert_array_equal(apply("invert", clip), 255 - clip)


def test_autocontrast_stretches_each_channel_of_each_frame() -> None:
    clip = make_clip()
    result = apply("autocontrast", clip)
    np.testing.assert_array_equal(result, with_pillow(clip, ImageOps.autocontrast))
    assert (result.min(axis=(1, 2)) == 0).all()
    assert (result.max(axis=(1, 2)) >= 254).all()


def test_equalize_of_known_values() -> None:
    # 128 values, 255 pixels each: step (128 * 255) // 255 = 128, value (64 + 255 v) // 128.
    values = np.repeat(np.arange(128, dtype=np.uint8), 255).reshape(128, 255)
    clip = np.repeat(values[None, ..., None], 3, axis=-1)
    result = apply("equalize", clip)
    for value, expected in ((0, 0), (1, 2), (64, 128), (127, 253)):
        assert (result[clip == value] == expected).all()


def test_equalize_agrees_with_pillow_where_white_occurs_and_keeps_plain_frames() -> None:
    clip = make_clip()
    clip[:, 0, 0] = 255
    np.testing.assert_array_equal(apply("equalize", clip), with_pillow(clip, ImageOps.equalize))
    plain = np.full((1, 16, 32, 3), 77, np.uint8)
    np.testing.assert_array_equal(apply("equalize", plain), plain)


@pytest.mark.parametrize(("m", "bits"), [(0, 8), (4, 8), (7, 7), (15, 5), (30, 2)])
def test_posterize_keeps_bits(m: int, bits: int) -> None:
    clip = make_clip()
    expected = with_pillow(clip, lambda frame: ImageOps.posterize(frame, bits))
    np.testing.assert_array_equal(apply("posterize", clip, m), expected)


@pytest.mark.parametrize(("m", "threshold"), [(0, 256), (7, 197), (15, 128), (30, 0)])
def test_solarize_inverts_from_the_threshold_up(m: int, threshold: int) -> None:
    clip = make_clip()
    expected = with_pillow(clip, lambda frame: ImageOps.solarize(frame, threshold))
    np.testing.assert_array_equal(apply("solarize", clip, m), expected)


@pytest.mark.parametrize("name", ["color", "contrast", "brightness", "sharpness"])
@pytest.mark.parametrize(("m", "change"), [(7, 0.21), (30, 0.9)])
def test_enhancement_factors(name: str, m: int, change: float) -> None:
    clip, enhancer = make_clip(), getattr(ImageEnhance, name.capitalize())
    expected = [
        with_pillow(clip, lambda frame, f=factor: enhancer(frame).enhance(f))
        for factor in (1 - change, 1 + change)
    ]
    assert matches(both_signs(name, clip, m), expected)


def test_brightness_of_a_known_value() -> None:
    clip = np.full((1, 4, 4, 3), 100, np.uint8)
    assert {int(r[0, 0, 0, 0]) for r in both_signs("brightness", clip)} == {79, 121}


def test_rotations_by_seven_degrees_about_the_centre() -> None:
    clip = make_clip()
    grey, results = (128, 128, 128), both_signs("rotate", clip)
    for degrees in (-7, 7):
        expected = with_pillow(clip, lambda f, d=degrees: f.rotate(d, fillcolor=grey))
        # Pillow computes the matrix differently, so a pixel between two others may round otherwise.
        assert min((r != expected).any(axis=-1).mean() for r in results) < 1e-3


def sheared(frame: np.ndarray, slope: float) -> np.ndarray:
    """Shear row by row: pixel x comes from the pixel that contains x + 1/2 - slope * (y + 1/2)."""
    result = np.full_like(frame, 128)
    for y in range(frame.shape[0]):
        source = np.floor(np.arange(frame.shape[1]) + 0.5 - slope * (y + 0.5)).astype(int)
        inside = (source >= 0) & (source < frame.shape[1])
        result[y, inside] = frame[y, source[inside]]
    return result


@pytest.mark.parametrize("m", [7, 30])
def test_shears_move_each_row_or_column_from_the_top_left(m: int) -> None:
    clip, slope = make_clip(), np.tanh(0.01 * m)
    rows = [np.stack([sheared(f, s) for f in clip]) for s in (slope, -slope)]
    assert matches(both_signs("shear_x", clip, m), rows)
    columns = [sheared(f.swapaxes(0, 1), s).swapaxes(0, 1) for s in (slope, -slope) for f in clip]
    assert matches(both_signs("shear_y", clip, m), list(np.reshape(columns, (2, *clip.shape))))


@pytest.mark.parametrize(("name", "axis"), [("translate_x", 2), ("translate_y", 1)])
@pytest.mark.parametrize(("m", "pixels"), [(7, 15), (30, 66)])
def test_translations_by_a_fraction_of_the_side(name: str, axis: int, m: int, pixels: int) -> None:
    # 7.7 % and 33 % of 200 pixels: 15.4 and 66.
    clip = make_clip(frames=2, height=200, width=200).swapaxes(axis, 2)
    forward = np.full_like(clip, 128)
    backward = np.full_like(clip, 128)
    forward[:, :, pixels:], backward[:, :, :-pixels] = clip[:, :, :-pixels], clip[:, :, pixels:]
    expected = [np.ascontiguousarray(c.swapaxes(axis, 2)) for c in (forward, backward)]
    clip = np.ascontiguousarray(clip.swapaxes(axis, 2))
    assert matches(both_signs(name, clip, m), expected)


def test_cutout_is_one_grey_square_that_may_cross_the_edges() -> None:
    clip = np.zeros((2, 48, 64, 3), np.uint8)
    sides, corners = set(), set()
    for seed in range(200):
        result = apply("cutout", clip, 30, seed)
        grey = result[0, ..., 0] == 128
        rows, columns = np.flatnonzero(grey.any(1)), np.flatnonzero(grey.any(0))
        assert (result[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] == 128).all()
        assert (result == 128).sum() == 6 * len(rows) * len(columns)
        sides |= {len(rows), len(columns)}
        corners.add((rows[0], columns[0]))
    # 20/32 of 48 pixels, or half of it in a corner.
    assert max(sides) == 30
    assert 15 <= min(sides) < 20
    assert len(corners) > 100


@pytest.mark.parametrize(
    ("name", "kernel"),
    [
        ("blur", [[16] * 5, [16, 0, 0, 0, 16], [16, 0, 0, 0, 16], [16, 0, 0, 0, 16], [16] * 5]),
        ("smooth", [[20, 20, 20], [20, 100, 20], [20, 20, 20]]),
    ],
)
def test_impulse_responses_of_the_filters(name: str, kernel: list[list[int]]) -> None:
    # Weights 1/16 of 256 and 1/13 or 5/13 of 260; the impulse is 255, the largest pixel value.
    clip = np.zeros((1, 9, 9, 3), np.uint8)
    clip[0, 4, 4] = 255
    half = len(kernel) // 2
    window = apply(name, clip)[0, 4 - half : 5 + half, 4 - half : 5 + half]
    np.testing.assert_allclose(window, np.array(kernel)[..., None].repeat(3, -1), atol=2)
    assert apply(name, clip).sum() == window.sum()


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("m", [0, 7, 30])
def test_operations_keep_shape_and_dtype_and_do_not_write_to_their_input(name: str, m: int) -> None:
    clip = make_clip()
    before = clip.copy()
    result = apply(name, clip, m)
    assert result.shape == clip.shape
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(clip, before)


def test_frames_of_a_clip_share_every_draw() -> None:
    clip = make_clip(frames=4)
    for seed in range(25):
        whole, _ = rand_augment(clip, np.random.default_rng(seed))
        frames = [rand_augment(f[None], np.random.default_rng(seed))[0][0] for f in clip]
        np.testing.assert_array_equal(whole, frames)
        assert whole.dtype == np.uint8


def test_the_result_is_a_function_of_the_generator() -> None:
    clip = make_clip()
    before = clip.copy()
    results = [rand_augment(clip, np.random.default_rng(seed))[0].tobytes() for seed in range(20)]
    again = [rand_augment(clip, np.random.default_rng(seed))[0].tobytes() for seed in range(20)]
    assert results == again
    assert len(set(results)) == 20
    np.testing.assert_array_equal(clip, before)


def test_n_distinct_operations_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []

    def recorder(name: str) -> Callable[..., np.ndarray]:
        def record(clip: np.ndarray, m: int, rng: np.random.Generator) -> np.ndarray:
            assert m == 9
            drawn.append(name)
            return clip

        return record

    for name in list(OPERATIONS):
        monkeypatch.setitem(OPERATIONS, name, recorder(name))
    clip, orders = make_clip(frames=1, height=8, width=8), []
    for seed in range(200):
        drawn.clear()
        rand_augment(clip, np.random.default_rng(seed), n=4, m=9)
        assert len(drawn) == len(set(drawn)) == 4
        orders.append(tuple(drawn))
    assert {name for order in orders for name in order} == set(OPERATIONS)
    pairs = {order[:2] for order in orders}
    assert any(pair[::-1] in pairs for pair in pairs)


def test_flip_and_crop_always_come_first() -> None:
    ramp = np.arange(224, dtype=np.uint8)
    clip = np.repeat(np.broadcast_to(ramp, (1, 224, 224))[..., None], 3, axis=-1)
    results = [rand_augment(clip, np.random.default_rng(seed), n=0) for seed in range(200)]
    rows = [result[0, 0, :, 0] for result, _ in results]
    flipped = [row[0] > row[-1] for row in rows]
    assert flipped == [flip for _, flip in results]
    assert 70 <= sum(flipped) <= 130
    edges = np.array([sorted(row[[0, -1]]) for row in rows])
    # Up to 7 of 224 pixels at each side, rounded, and resized back to the full width.
    assert set(edges[:, 0]) == set(range(8))
    assert set(edges[:, 1]) == set(range(216, 224))
    assert len({tuple(edge) for edge in edges}) > 30


@pytest.mark.parametrize(("n", "m"), [(19, 7), (-1, 7), (4, 31), (4, -1)])
def test_numbers_out_of_range_are_refused(n: int, m: int) -> None:
    with pytest.raises(InputError, match=f"n={n} and m={m}"):
        rand_augment(make_clip(), np.random.default_rng(0), n=n, m=m)
