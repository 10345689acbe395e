import dataclasses
import json
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from vswin_jax.data.moving_shapes.moving_scene import MEAN_SPEED, MOTIONS, Scene, render
from vswin_jax.data.moving_shapes.moving_shapes import (
    CLASSES,
    OPTIONS_FILE,
    MovingShapesOptions,
    scene_at,
    write_moving_shapes,
    write_video,
)
from vswin_jax.errors import InputError

OPTIONS = MovingShapesOptions(train_scenes=2, test_scenes=1, seed=7, size=32, num_frames=6, fps=6)
SMALL = {k: v for k, v in dataclasses.asdict(OPTIONS).items() if k != "format_version"}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("shapes") / "set"
    write_moving_shapes(directory, **SMALL)
    return directory


def decode(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


def contents(directory: Path) -> dict[str, bytes]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def without_background(scene: Scene) -> Scene:
    """Return the scene with a plain background that does not drift."""
    plain = np.full_like(scene.background, 120)
    return dataclasses.replace(scene, background=plain, drift=np.zeros(2))


def mask(frame: np.ndarray) -> np.ndarray:
    return np.abs(frame.astype(np.float32) - 120).max(axis=-1) > 20


def test_writes_h264_videos_in_a_folder_per_class(written: Path) -> None:
    assert sorted(p.name for p in written.iterdir()) == [OPTIONS_FILE, "test", "train"]
    for split, scenes in {"train": 2, "test": 1}.items():
        assert {p.name for p in (written / split).iterdir()} == set(CLASSES)
        for name in CLASSES:
            assert len(list((written / split / name).glob("*.mp4"))) == scenes
    with av.open(str(written / "train" / "grow" / "scene_00001.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert (stream.width, stream.height, stream.frames) == (32, 32, 6)
        assert stream.average_rate == 6


def test_the_same_options_give_the_same_bytes(written: Path, tmp_path: Path) -> None:
    write_moving_shapes(tmp_path / "again", **SMALL, workers=1)
    assert contents(tmp_path / "again") == contents(written)


def test_another_seed_gives_other_videos(written: Path, tmp_path: Path) -> None:
    write_moving_shapes(tmp_path / "other", **{**SMALL, "seed": 8})
    files, other = contents(written), contents(tmp_path / "other")
    assert set(files) == set(other)
    assert not set(files.values()) & set(other.values())


def test_first_frames_of_a_scene_are_equal_and_scenes_differ(written: Path) -> None:
    first_frames = set()
    for split, index in (("train", 0), ("train", 1), ("test", 0)):
        videos = [decode(written / split / name / f"scene_{index:05d}.mp4") for name in CLASSES]
        assert len({video[0].tobytes() for video in videos}) == 1
        assert len({video[-1].tobytes() for video in videos}) == len(CLASSES)
        first_frames.add(videos[0][0].tobytes())
    assert len(first_frames) == 3


def test_videos_match_the_rendered_frames(written: Path) -> None:
    rendered = render(scene_at(OPTIONS, "train", 1), MOTIONS["shrink"], 6)
    decoded = decode(written / "train" / "shrink" / "scene_00001.mp4")
    assert np.abs(decoded.astype(int) - rendered).mean() < 6


def test_a_decoded_frame_depends_on_that_frame_alone(tmp_path: Path) -> None:
    frames = render(scene_at(OPTIONS, "train", 0), MOTIONS["move_up"], 12)
    write_video(tmp_path / "forward.mp4", frames, 6)
    write_video(tmp_path / "backward.mp4", frames[::-1], 6)
    forward, backward = decode(tmp_path / "forward.mp4"), decode(tmp_path / "backward.mp4")
    np.testing.assert_array_equal(forward, backward[::-1])


@pytest.mark.parametrize(
    ("name", "axis", "sign"),
    [("move_left", 1, -1), ("move_right", 1, 1), ("move_up", 0, -1), ("move_down", 0, 1)],
)
def test_translations_wrap_and_have_the_speed_of_the_scene(name: str, axis: int, sign: int) -> None:
    options = dataclasses.replace(OPTIONS, size=64)
    for index in range(4):
        scene = without_background(scene_at(options, "train", index))
        first, last = (mask(f) for f in render(scene, MOTIONS[name], 24)[[0, 23]])
        product = np.fft.fft2(last) * np.conj(np.fft.fft2(first))
        shift = np.unravel_index(np.fft.ifft2(product).real.argmax(), first.shape)
        expected = sign * 23 * scene.speed[1 - axis] * 64
        assert abs((shift[axis] - expected + 32) % 64 - 32) <= 1
        assert abs((shift[1 - axis] + 32) % 64 - 32) <= 1


@pytest.mark.parametrize(
    ("name", "sign"), [("rotate_clockwise", 1), ("rotate_counterclockwise", -1)]
)
def test_rotations_have_the_direction_of_their_name(name: str, sign: int) -> None:
    options = dataclasses.replace(OPTIONS, size=64)
    for index in range(4):
        scene = without_background(scene_at(options, "train", index))
        scene = dataclasses.replace(scene, start=np.array([0.5, 0.5, *scene.start[2:]]))
        first, last = render(scene, MOTIONS[name], 7)[[0, 6]]
        degrees = 6 * scene.speed[2] * 360
        errors = {}
        for direction in (1, -1):
            # OpenCV's positive angles are counterclockwise on the screen.
            matrix = cv2.getRotationMatrix2D((31.5, 31.5), -direction * degrees, 1)
            rotated = cv2.warpAffine(first, matrix, (64, 64), borderValue=(120, 120, 120))
            errors[direction] = np.abs(rotated.astype(int) - last).mean()
        assert errors[sign] < 0.3 * errors[-sign]


@pytest.mark.parametrize(("name", "sign"), [("grow", 1), ("shrink", -1)])
def test_sizes_change_in_one_direction_except_for_one_jump(name: str, sign: int) -> None:
    options = dataclasses.replace(OPTIONS, size=64)
    for index in range(4):
        scene = without_background(scene_at(options, "train", index))
        frames = render(scene, MOTIONS[name], 24)
        growth = sign * np.diff(np.log([mask(f).sum() for f in frames])[::3])
        assert (growth < 0).sum() <= 2
        assert (growth > 0).sum() >= 5


def affine_flow(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Fit the motion `[4]` (x, y, angle, log-size) about the object's centre by least squares."""
    first, second = (cv2.cvtColor(f, cv2.COLOR_RGB2GRAY).astype(float) for f in (first, second))
    weight = (np.abs(first - 120) > 50).astype(float)
    grid = np.arange(len(first))
    angles = [np.angle(weight.sum(axis) @ np.exp(2j * np.pi * grid / len(grid))) for axis in (0, 1)]
    centre = np.array(angles) / (2 * np.pi) * len(grid)
    half = len(grid) / 2
    x, y = ((grid - c + half) % len(grid) - half for c in centre)
    dx, dy = np.gradient(first, axis=1), np.gradient(first, axis=0)
    x, y = x[None, :], y[:, None]
    columns = np.stack([dx, dy, x * dy - y * dx, x * dx + y * dy], axis=-1).reshape(-1, 4)
    return np.linalg.lstsq(columns, (first - second).ravel(), rcond=None)[0]


def test_two_frames_determine_the_class() -> None:
    options = dataclasses.replace(OPTIONS, size=64)
    ranges = np.array([64, 64, 2 * np.pi, np.log(2.25)])
    hits = []
    for index in range(24):
        scene = scene_at(options, "test", index)
        for name, motion in MOTIONS.items():
            flow = affine_flow(*render(scene, motion, 2)) / (ranges * MEAN_SPEED)
            guess = [np.dot(flow, other) for other in MOTIONS.values()]
            hits.append(CLASSES[int(np.argmax(guess))] == name)
    assert np.mean(hits) > 0.6


def appearance(frame: np.ndarray) -> list[float]:
    """Return features of a frame: brightness, contrast, block edges, smoothness, layout."""
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32)
    features = [grey.mean(), grey.std()]
    for step in (np.abs(np.diff(grey, axis=0)), np.abs(np.diff(grey, axis=1)).T):
        features += [np.log(step[p::4].mean() + 1e-3) for p in range(4)]
        features += [np.log(np.median(step) + 0.1), (step < 0.5).mean()]
    edges = np.abs(cv2.Laplacian(grey, cv2.CV_32F))
    features += [np.log(edges.mean()), np.log(np.median(edges) + 0.1), (edges < 1).mean()]
    return features + cv2.resize(grey, (3, 3), interpolation=cv2.INTER_AREA).ravel().tolist()


def probe_accuracy(features: np.ndarray, labels: np.ndarray, train: np.ndarray) -> float:
    """Fit ridge regression to features and their products on `train`; score the other rows."""
    scaled = (features - features[train].mean(0)) / (features[train].std(0) + 1e-6)
    rows, columns = np.triu_indices(features.shape[1])
    products = scaled[:, rows] * scaled[:, columns]
    design = np.clip(np.c_[scaled, products, np.ones(len(labels))], -5, 5)
    gram = design[train].T @ design[train] + 30 * np.eye(design.shape[1])
    weights = np.linalg.solve(gram, design[train].T @ np.eye(len(CLASSES))[labels[train]])
    return float(((design[~train] @ weights).argmax(axis=1) == labels[~train]).mean())


@pytest.mark.long
def test_a_single_frame_does_not_reveal_the_class() -> None:
    scenes = 150
    features = []
    for index in range(scenes):
        scene = scene_at(OPTIONS, "train", index)
        features += [appearance(render(scene, motion, 24)[-1]) for motion in MOTIONS.values()]
    labels = np.tile(np.arange(len(CLASSES)), scenes)
    fold = np.arange(len(labels)) // len(CLASSES) % 2
    scores = [probe_accuracy(np.array(features), labels, fold == f) for f in (0, 1)]
    assert np.mean(scores) < 1 / len(CLASSES) + 0.03


def test_a_finished_set_is_not_written_again(written: Path) -> None:
    def progress(done: int, total: int) -> None:
        pytest.fail("nothing should be written")

    before = contents(written)
    write_moving_shapes(str(written), **SMALL, progress=progress)
    assert contents(written) == before


def test_other_options_in_the_same_directory_are_refused(written: Path) -> None:
    with pytest.raises(InputError, match=r"num_frames=6 \(not 8\).*remove this one"):
        write_moving_shapes(written, **{**SMALL, "num_frames": 8})


def test_a_killed_call_leaves_no_finished_set_and_the_next_one_starts_anew(
    written: Path, tmp_path: Path
) -> None:
    def killed(done: int, total: int) -> None:
        assert (done, total) == (1, 3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_moving_shapes(tmp_path / "set", **SMALL, workers=1, progress=killed)
    assert [*tmp_path.iterdir()] == []
    # A call that is killed by SIGKILL leaves its partial directory.
    (tmp_path / "set.partial" / "train").mkdir(parents=True)
    (tmp_path / "set.partial" / "train" / "stale.mp4").write_bytes(b"")
    write_moving_shapes(tmp_path / "set", **SMALL)
    assert contents(tmp_path / "set") == contents(written)
    assert [p.name for p in tmp_path.iterdir()] == ["set"]


def test_an_empty_directory_is_used_and_missing_parents_are_created(tmp_path: Path) -> None:
    target = tmp_path / "data" / "set"
    (target).mkdir(parents=True)
    write_moving_shapes(target, **SMALL)
    write_moving_shapes(tmp_path / "new" / "set", **SMALL)
    assert contents(tmp_path / "new" / "set") == contents(target)


@pytest.mark.parametrize("text", [None, "{", "3"])
def test_a_directory_with_other_files_is_refused(tmp_path: Path, text: str | None) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"")
    if text is not None:
        (tmp_path / OPTIONS_FILE).write_text(text)
    with pytest.raises(InputError, match="not a finished moving_shapes"):
        write_moving_shapes(tmp_path, **SMALL)
    assert (tmp_path / "photo.jpg").exists()


def test_a_file_of_that_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "set").write_text("")
    with pytest.raises(InputError, match="name another directory"):
        write_moving_shapes(tmp_path / "set", **SMALL)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("train_scenes", 0),
        ("test_scenes", 0),
        ("seed", -1),
        ("size", 33),
        ("size", 16),
        ("num_frames", 1),
        ("fps", 0),
    ],
)
def test_options_out_of_range_are_refused(tmp_path: Path, name: str, value: int) -> None:
    with pytest.raises(InputError, match=f"{name}={value}"):
        write_moving_shapes(tmp_path / "set", **{**SMALL, name: value})
    assert not (tmp_path / "set").exists()


def test_the_options_are_stored_beside_the_videos(written: Path) -> None:
    assert json.loads((written / OPTIONS_FILE).read_text()) == dataclasses.asdict(OPTIONS)
