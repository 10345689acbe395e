import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest

from vswin_jax.reporting import plots

BLUE, GREEN = (37, 99, 168), (47, 133, 90)


def read(path: Path) -> np.ndarray:
    return cv2.imread(str(path))[..., ::-1]


def count(picture: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((np.abs(picture.astype(int) - colour).max(axis=-1) <= 2).sum())


@pytest.mark.long
@pytest.mark.parametrize("classes", [1, 8, 30, 400])
def test_confusion_matrix(tmp_path: Path, classes: int) -> None:
    matrix = np.zeros((classes, classes), np.int64)
    names = [f"a class with a rather long name {k}" for k in range(classes)]
    plots.save_confusion(tmp_path / "none.png", matrix, names)
    plots.save_confusion(tmp_path / "all.png", np.eye(classes, dtype=np.int64) * 5, names)
    empty, full = read(tmp_path / "none.png"), read(tmp_path / "all.png")
    assert max(full.shape) < 2200
    assert count(full, (11, 37, 69)) > count(empty, (11, 37, 69))


def test_many_classes_list_the_worst_pair(tmp_path: Path) -> None:
    matrix = np.eye(100, dtype=np.int64)
    plots.save_confusion(tmp_path / "right.png", matrix, [str(k) for k in range(100)])
    matrix[3, 70] = 9
    plots.save_confusion(tmp_path / "wrong.png", matrix, [str(k) for k in range(100)])
    red = (192, 57, 43)
    assert count(read(tmp_path / "right.png"), red) == 0
    assert count(read(tmp_path / "wrong.png"), red) > 0


@pytest.mark.long
@pytest.mark.parametrize("classes", [1, 30, 157])
def test_average_precisions(tmp_path: Path, classes: int) -> None:
    """Compare bar areas: a bar is as long as its value, and a class without videos has none."""
    names = [f"a class with a rather long name {k}" for k in range(classes)]
    videos = [3] * classes
    areas = []
    for value in (1.0, 0.5, np.nan):
        precisions = np.full(classes, value)
        plots.save_average_precisions(tmp_path / "ap.png", precisions, videos, names)
        picture = read(tmp_path / "ap.png")
        assert max(picture.shape) < 2200
        areas.append(count(picture, BLUE))
    assert areas[1] == pytest.approx(areas[0] / 2, rel=0.03)
    assert areas[2] == 0


def test_many_classes_show_the_best_and_the_worst(tmp_path: Path) -> None:
    """Give 20 of 100 classes a precision of 1 and 20 of 0: the 60 between are not drawn."""
    names = [str(k) for k in range(100)]
    areas = set()
    for between in (0.2, 0.9):
        precisions = np.repeat([between, 1.0, 0.0], [60, 20, 20])
        plots.save_average_precisions(tmp_path / "ap.png", precisions, [3] * 100, names)
        left, right = np.array_split(read(tmp_path / "ap.png"), 2, axis=1)
        areas.add(count(left, BLUE))
        assert count(right, BLUE) == 0
    assert len(areas) == 1
    assert areas.pop() > 10_000


def test_curves(tmp_path: Path) -> None:
    steps = list(range(50))
    training = (steps, [2.0 - k / 50 for k in steps])
    plots.save_curves(tmp_path / "curves.png", {"training": training}, {})
    only_training = read(tmp_path / "curves.png")
    plots.save_curves(
        tmp_path / "curves.png", {"training": training}, {"held out": ([10, 40], [0.2, 0.9])}
    )
    assert count(only_training, BLUE) > 100
    assert count(only_training, GREEN) == 0
    assert count(read(tmp_path / "curves.png"), GREEN) > 100


def test_curves_of_several_metrics_have_different_colours(tmp_path: Path) -> None:
    held_out = ([10, 40], [0.2, 0.9])
    accuracies = {"training, a": held_out, "held out, a": held_out, "held out, b": ([10], [0.5])}
    plots.save_curves(tmp_path / "curves.png", {}, accuracies, "a and b")
    picture = read(tmp_path / "curves.png")
    for colour in (BLUE, GREEN, (194, 120, 3)):
        assert count(picture, colour) > 20


def test_predictions_show_frames_and_the_true_class(tmp_path: Path) -> None:
    frames = np.full((16, 40, 60, 3), (200, 10, 120), np.uint8)
    known = plots.PredictionRow(frames, ["left", "right"], [0.9, 0.1], "clip.mp4", truth=("left",))
    unknown = plots.PredictionRow(frames[:1], ["left", "right"], [0.9, 0.1], "clip.mp4")
    plots.save_predictions(tmp_path / "right.png", [known])
    plots.save_predictions(tmp_path / "unknown.png", [unknown, unknown])
    right, two = read(tmp_path / "right.png"), read(tmp_path / "unknown.png")
    assert count(right, (200, 10, 120)) > 10_000
    assert count(right, GREEN) > 1000
    assert count(two, GREEN) == 0
    assert count(two, BLUE) > 1000
    assert two.shape[0] > right.shape[0]
    both = plots.PredictionRow(
        frames, ["left", "right"], [0.9, 0.8], "a.mp4", truth=("right", "left")
    )
    none = plots.PredictionRow(frames, ["left", "right"], [0.9, 0.8], "a.mp4", truth=())
    plots.save_predictions(tmp_path / "both.png", [both])
    plots.save_predictions(tmp_path / "none.png", [none])
    assert count(read(tmp_path / "both.png"), GREEN) > 1.5 * count(right, GREEN)
    assert count(read(tmp_path / "none.png"), GREEN) == 0


def test_names_that_are_no_formulas_and_no_text(tmp_path: Path) -> None:
    """Matplotlib takes text between dollar signs for a formula, and refuses a wrong one."""
    names = ["$a^{$ and $b", "caf\udce9", "two\nlines", "跑步 \x1b[31m שלום"]
    frames, shares = np.zeros((2, 8, 8, 3), np.uint8), [0.1] * 4
    row = plots.PredictionRow(frames, names, shares, name="\udce9 $^$", truth=(names[1],))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plots.save_confusion(tmp_path / "a.png", np.eye(4, dtype=np.int64), names)
        plots.save_average_precisions(tmp_path / "b.png", np.ones(4), [1] * 4, names)
        plots.save_predictions(tmp_path / "c.png", [row])
    assert len(list(tmp_path.glob("?.png"))) == 3
