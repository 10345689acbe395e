"""Segments from probabilities over time."""

import numpy as np
import pytest

from vswin_jax.errors import InputError
from vswin_jax.inference.timelines.segments import (
    Segment,
    SegmentOptions,
    find_segments,
    smooth_over_time,
)

NAMES = ("rest", "jump", "run")
CENTRES = np.array([0.5, 1.5, 2.5, 3.5, 4.5])


def scores(*columns: list[float]) -> np.ndarray:
    return np.array(columns, np.float32).T


def test_a_change_of_class_is_half_way_between_windows() -> None:
    found = find_segments(
        scores([0.9, 0.8, 0.1, 0.1, 0.9], [0.1, 0.2, 0.9, 0.8, 0.1], [0.0] * 5),
        CENTRES,
        5.0,
        NAMES,
        SegmentOptions(threshold=0.5, smooth=0),
        independent=False,
    )
    assert [(part.start, part.end, part.label) for part in found] == [
        (0.0, 2.0, "rest"),
        (2.0, 4.0, "jump"),
        (4.0, 5.0, "rest"),
    ]
    assert [round(part.score, 6) for part in found] == [0.85, 0.85, 0.9]


def test_independent_classes_may_overlap_and_the_shortest_are_left_out() -> None:
    rows = scores([0.5, 0.5, 0.5, 0.5, 0.5], [0.1, 0.4, 0.4, 0.1, 0.4], [0.0] * 5)
    options = SegmentOptions(threshold=0.4, smooth=0)
    found = find_segments(rows, CENTRES, 5.0, NAMES, options, independent=True)
    assert [(part.start, part.end, part.label) for part in found] == [
        (0.0, 5.0, "rest"),
        (1.0, 3.0, "jump"),
        (4.0, 5.0, "jump"),
    ]
    options = SegmentOptions(threshold=0.4, smooth=0, shortest=1.5)
    long = find_segments(rows, CENTRES, 5.0, NAMES, options, independent=True)
    assert [part.start for part in long] == [0.0, 1.0]
    # Of classes that exclude each other, the most probable one counts.
    (part,) = find_segments(rows, CENTRES, 5.0, NAMES, options, independent=False)
    assert part.label == "rest"


def test_smoothing_closes_a_gap() -> None:
    rows = scores([0.9, 0.9, 0.3, 0.9, 0.9], [0.1, 0.1, 0.7, 0.1, 0.1], [0.0] * 5)
    smoothed = smooth_over_time(rows, CENTRES, 2.0)
    # The mean of the windows within a second; fewer of them at the ends.
    np.testing.assert_allclose(smoothed[:, 0], [0.9, 0.7, 0.7, 0.7, 0.9], atol=1e-6)
    np.testing.assert_array_equal(smooth_over_time(rows, CENTRES, 0.0), rows)
    options = SegmentOptions(threshold=0.5, smooth=2.0)
    found = find_segments(rows, CENTRES, 5.0, NAMES, options, independent=False)
    assert found == [Segment(0.0, 5.0, "rest", pytest.approx(0.78))]


def test_no_class_reaches_the_threshold() -> None:
    rows = np.full((5, 3), 1 / 3, np.float32)
    options = SegmentOptions(threshold=0.5, smooth=0)
    assert find_segments(rows, CENTRES, 5.0, NAMES, options, independent=True) == []


@pytest.mark.parametrize(
    ("options", "name"),
    [({"threshold": 0.0}, "threshold"), ({"threshold": 1.5}, "threshold"), ({"smooth": -1}, "-1")],
)
def test_wrong_options_are_refused(options: dict[str, float], name: str) -> None:
    with pytest.raises(InputError, match=name):
        SegmentOptions(**options)
