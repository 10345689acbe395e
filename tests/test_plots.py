from pathlib import Path

import cv2
import numpy as np
import pytest

from vswin_jax import plots

BLUE, GREEN = (37, 99, 168), (47, 133, 90)


def read(path: Path) -> np.ndarray:
    return cv2.imread(str(path))[..., ::-1]


def count(picture: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((np.abs(picture.astype(int) - colour).max(axis=-1) <= 2).sum())


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


def test_predictions_show_frames_and_the_right_class(tmp_path: Path) -> None:
    frames = np.full((16, 40, 60, 3), (200, 10, 120), np.uint8)
    strip = plots.Strip(frames, ["left", "right"], [0.9, 0.1], "clip.mp4", truth="left")
    unknown = plots.Strip(frames[:1], ["left", "right"], [0.9, 0.1], "clip.mp4")
    plots.save_predictions(tmp_path / "right.png", [strip])
    plots.save_predictions(tmp_path / "unknown.png", [unknown, unknown])
    right, two = read(tmp_path / "right.png"), read(tmp_path / "unknown.png")
    assert count(right, (200, 10, 120)) > 10_000
    assert count(right, GREEN) > 1000
    assert count(two, GREEN) == 0
    assert count(two, BLUE) > 1000
    assert two.shape[0] > right.shape[0]
