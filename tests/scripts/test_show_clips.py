"""Previews of training clips: their pixels, the contact sheet, the video and the script."""

import runpy
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import av
import cv2
import jax
import numpy as np
import pytest

from vswin_jax.config import flags
from vswin_jax.data.clips.clip_spec import ClipSpec
from vswin_jax.data.decoding.frames import EncodedFrames
from vswin_jax.data.example import Example
from vswin_jax.data.sources.sources import open_source
from vswin_jax.preview import training_clips
from vswin_jax.reporting.contact_sheet import ShownClip, draw_sheet, save_mosaic, save_sheet
from vswin_jax.sharding.mesh import make_mesh, place_batch

if TYPE_CHECKING:
    from conftest import Run

    from vswin_jax.data.sources.sources import VideoSource

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "show_clips.py"
QUICKSTART = ROOT / "experiments" / "quickstart.py"
NAMES = ("jump", "run", "swim")
SIZE = 16


@pytest.fixture
def source(tmp_path: Path) -> "VideoSource":
    for name in NAMES:
        for take in ("a.mp4", "b.mp4"):
            (tmp_path / "set" / name).mkdir(parents=True, exist_ok=True)
            (tmp_path / "set" / name / take).write_bytes(b"is not opened")
    return open_source(tmp_path / "set")


def batch_of(rows: int = 4) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "video": rng.integers(0, 256, (rows, 1, 3, SIZE, SIZE, 3), dtype=np.uint8),
        "label": np.arange(rows, dtype=np.int32) % 3,
        "mask": np.ones(rows, np.float32),
        "id": (2 * np.arange(rows, dtype=np.int32)) % 6,
        "flip": np.arange(rows) % 2 == 1,
    }


def test_clips_are_captioned_with_their_frames(source: "VideoSource") -> None:
    config = flags.load(str(QUICKSTART))
    batch = batch_of() | {"frames": np.int32([[3, 9, 15], [4, 0, 2], [7, 7, 7], [1, 2, 3]])}
    clips = training_clips.training_clips(batch, 0, config=config, source=source, count=3)
    assert [clip.position for clip in clips] == ["frames 3 to 15", "frames 0 to 4", "frames 7 to 7"]
    assert [clip.position for clip in shown(source)] == [""] * 3
    written = draw_sheet(clips, "title") != draw_sheet(
        [replace(c, position="") for c in clips], "title"
    )
    assert written.any()
    assert not written[:, 308:].any()


def shown(source: "VideoSource", step: int = 0, **loss: float) -> list[ShownClip]:
    overrides = [f"--config.loss.{name}={value}" for name, value in loss.items()]
    config = flags.override(flags.load(str(QUICKSTART)), overrides)
    return training_clips.training_clips(batch_of(), step, config=config, source=source, count=3)


def test_without_augmentation_the_pixels_are_those_of_the_batch(source: "VideoSource") -> None:
    """Label smoothing does not count as mixing, and the second clip is flipped."""
    video = batch_of()["video"][:, 0]
    clips = shown(source, label_smoothing=0.5)
    assert [(clip.label, clip.name) for clip in clips] == [
        ("jump", "jump/a.mp4"),
        ("run", "run/a.mp4"),
        ("swim", "swim/a.mp4"),
    ]
    np.testing.assert_array_equal(clips[0].frames, video[0])
    np.testing.assert_array_equal(clips[1].frames, video[1, :, :, ::-1])


def test_mixed_clips_have_both_labels_in_the_shares_of_their_pixels(
    source: "VideoSource",
) -> None:
    """The first clip is mixed with the last clip of the batch, which is not shown."""
    video = batch_of()["video"][:, 0].astype(np.float64)
    video[1::2] = video[1::2, :, :, ::-1]
    first, second, _ = shown(source, step=5, mixup_alpha=5.0)
    assert first.label == "jump"
    larger, a, plus, smaller, b = second.label.split()
    assert (a, plus, b) in (("run", "+", "jump"), ("jump", "+", "run"))
    assert float(larger) + float(smaller) == pytest.approx(1.0)
    share = float(larger) if a == "run" else float(smaller)
    assert 0.05 < share < 0.95
    for clip, (row, partner) in ((first, (0, 3)), (second, (1, 0))):
        expected = share * video[row] + (1 - share) * video[partner]
        np.testing.assert_allclose(clip.frames, expected, atol=0.005 * 255 + 0.5)
    assert shown(source, step=6, mixup_alpha=5.0)[1].label != second.label


def test_erased_boxes_have_the_mean_colour(source: "VideoSource") -> None:
    video = batch_of()["video"][0, 0]
    frames = shown(source, random_erasing=1.0)[0].frames
    erased = (frames == (124, 116, 104)).all(-1)
    assert 0.01 < erased.mean() < 0.5
    assert (erased == erased[0]).all(), "the box is the same in all frames"
    np.testing.assert_array_equal(frames[~erased], video[~erased])


def test_a_batch_on_a_mesh_gives_the_same_clips(source: "VideoSource") -> None:
    config = flags.load(str(QUICKSTART))
    mesh = make_mesh(devices=jax.devices()[:1])
    placed = place_batch(batch_of(), mesh)
    with jax.transfer_guard_device_to_host("disallow"):
        clips = training_clips.training_clips(placed, 0, config=config, source=source, mesh=mesh)
    for clip, expected in zip(clips, shown(source), strict=False):
        np.testing.assert_array_equal(clip.frames, expected.frames)
    assert len(clips) == 4


def test_views_of_an_evaluation_are_grouped_by_video(source: "VideoSource") -> None:
    batch = batch_of(2)
    batch["video"] = np.concatenate([batch["video"], batch["video"] // 2], axis=1)
    batch |= {"flip": np.zeros(2, bool), "mask": np.float32([1, 0]), "id": np.int32([2, -1])}
    clips = training_clips.evaluation_clips(batch, source=source)
    assert [clip.label for clip in clips] == ["run (view 1 of 2)", "run (view 2 of 2)"]
    for view, clip in enumerate(clips):
        np.testing.assert_array_equal(clip.frames, batch["video"][0, view])


def test_sets_of_labels_are_shown_in_training_and_evaluation(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / f"{name}.mp4").write_bytes(b"is not opened")
    (tmp_path / "list.csv").write_text("path,label\na.mp4,run;jump\nb.mp4,\nc.mp4,swim\n")
    sets = open_source(tmp_path / "list.csv", multi_label=True)
    batch = batch_of(3) | {"id": np.arange(3, dtype=np.int32), "flip": np.zeros(3, bool)}
    batch["label"] = np.float32([[1, 1, 0], [0, 0, 0], [0, 0, 1]])
    config = flags.load(str(QUICKSTART))
    config.data.multi_label = True
    config.loss.label_smoothing = 0.1
    clips = training_clips.training_clips(batch, 0, config=config, source=sets)
    assert [clip.label for clip in clips] == ["jump + run", "no class", "swim"]
    clips = training_clips.evaluation_clips(batch, source=sets)
    labels = [clip.label.removesuffix(" (view 1 of 1)") for clip in clips]
    assert labels == ["jump + run", "no class", "swim"]


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ([0, 1, 0], "run"),
        ([0.3, 0, 0.7], "0.7 swim + 0.3 jump"),
        ([0.998, 0.002, 0], "jump"),
        ([0.125, 0.875, 0], "0.88 run + 0.12 jump"),
        ([1, 0, 1], "jump + swim"),
        ([0.3, 1, 0.7], "run + 0.7 swim + 0.3 jump"),
        ([0, 0.4, 0], "0.4 run"),
        ([0, 0, 0], "no class"),
    ],
)
def test_descriptions_of_targets(target: list[float], words: str) -> None:
    assert training_clips.describe_target(np.float32(target), NAMES) == words


def colours(count: int, size: int = 32, length: int = 12) -> list[ShownClip]:
    """Return clips of uniform colour: red encodes the clip and green the frame."""
    clips = []
    for number in range(count):
        frames = np.zeros((length, size, size, 3), np.uint8)
        frames[..., 0] = 40 + 50 * number
        frames[..., 1] = 20 * np.arange(length)[:, None, None]
        clips.append(ShownClip(frames, f"clip {number}", f"{number}.mp4"))
    return clips


def test_the_sheet_has_a_row_for_each_clip(tmp_path: Path) -> None:
    clips = colours(3)
    sheet = draw_sheet(clips, "title")
    save_sheet(tmp_path / "clips.png", sheet)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "clips.png"))[..., ::-1], sheet)
    frames = np.linspace(0, 11, 8).round().astype(int)
    for clip in clips:
        for frame in frames:
            found = (sheet == clip.frames[frame, 0, 0]).all(-1)
            assert found.sum() == 128 * 128, "32 pixels are enlarged four times"
    assert [child.name for child in tmp_path.iterdir()] == ["clips.png"]
    assert draw_sheet(colours(1, size=224), "t").shape < draw_sheet(colours(2, size=224), "t").shape


def test_long_and_undecodable_names_are_drawn() -> None:
    frames = np.zeros((2, 16, 16, 3), np.uint8)
    long = ShownClip(frames, "Putting [something] on a surface " * 20, "folder/" * 60 + "end.mp4")
    odd = ShownClip(frames, "", "a\udcff\n.mp4")
    sheet = draw_sheet([long, odd], "title")
    column = sheet[40:, 304:308]
    assert (column == 255).all(), "text overlaps the frames"


def test_the_mosaic_is_h264_at_the_given_frame_rate(tmp_path: Path) -> None:
    clips = colours(3)
    save_mosaic(tmp_path / "clips.mp4", clips, 7.5)
    with av.open(str(tmp_path / "clips.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.average_rate) == ("h264", 7.5)
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    assert len(pictures) == 12
    # Two columns, so the third clip begins the second row.
    step_x, step_y = pictures[0].shape[1] // 2, pictures[0].shape[0] // 2
    for number, clip in enumerate(clips):
        y, x = number // 2 * step_y + 100, number % 2 * step_x + 100
        for frame in (0, 11):
            difference = pictures[frame][y, x].astype(int) - clip.frames[frame, 0, 0]
            assert abs(difference).max() <= 8
    assert [child.name for child in tmp_path.iterdir()] == ["clips.mp4"]


def test_clips_play_at_the_speed_of_the_video(tiny_run: "Run") -> None:
    """12 frames at 12 a second: one second."""
    source = open_source(tiny_run.workdir / "moving_shapes" / "train")
    example = source[0]
    dense = ClipSpec(num_frames=4, frame_interval=2, size=16, resize=16)
    uniform = ClipSpec(num_frames=4, sampling="uniform", num_clips=1, size=16, resize=16)
    assert training_clips.playback_rate([example], dense) == 6.0
    assert training_clips.playback_rate([example], uniform) == 4.0
    assert training_clips.playback_rate([example], replace(dense, fps=5.0)) == 2.5
    assert training_clips.playback_rate([example], replace(uniform, fps=5.0)) == 4.0
    stored = Example(Path(str(example.video)).read_bytes(), 0, 0, "stored")
    assert training_clips.playback_rate([stored], dense) == 6.0
    for times, rate in ((np.array([0.0, 0.1, 0.5]), 2.0), (None, 15.0)):
        images = [cv2.imencode(".png", np.zeros((20, 20, 3), np.uint8))[1].tobytes()] * 3
        packed = Example(EncodedFrames(images, times), 0, 0, "packed")
        assert training_clips.playback_rate([packed], dense) == rate


def test_a_run_logs_its_first_batch(tiny_run: "Run") -> None:
    pytest.importorskip("clu.metric_writers")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    picture = cv2.imread(str(tiny_run.workdir / "clips.png"))[..., ::-1]
    events = EventAccumulator(str(tiny_run.workdir))
    events.Reload()
    (event,) = events.Tensors("train/clips")
    _, _, encoded = make_ndarray(event.tensor_proto)
    logged = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert event.step == 0
    np.testing.assert_array_equal(logged, picture)


def script() -> Callable[[Sequence[str]], int]:
    return runpy.run_path(str(SCRIPT))["run"]


def run_script(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.long
def test_the_script_draws_the_same_clips_as_the_run(tiny_run: "Run", tmp_path: Path) -> None:
    data = f"--config.data.root={tiny_run.workdir / 'moving_shapes'}"
    config, *overrides = (a for a in tiny_run.arguments if not a.startswith("--workdir"))
    done = run_script(config, *overrides, data, "--out", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "clips.mp4" in done.stdout
    assert (tmp_path / "clips.png").read_bytes() == (tiny_run.workdir / "clips.png").read_bytes()
    assert sorted(child.name for child in tmp_path.iterdir()) == ["clips.mp4", "clips.png"]
    with av.open(str(tmp_path / "clips.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 4


def test_the_script_shows_evaluation_clips(
    tiny_run: "Run", tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = script()
    data = f"--config.data.root={tiny_run.workdir / 'moving_shapes'}"
    arguments = [*(a for a in tiny_run.arguments if not a.startswith("--workdir")), data]
    arguments += ["--out", str(tmp_path / "shown"), "--split", "eval", "--count", "2"]
    assert run([*arguments, "--step", "1"]) == 0
    height = cv2.imread(str(tmp_path / "shown" / "clips.png")).shape[0]
    assert height == 2 * 18 + 4 + 2 * (128 + 4)
    assert run([*arguments, "--step", "9"]) == 2
    assert "--step 9 is past the last one" in capsys.readouterr().err


def test_the_script_shows_repeated_augmentation_at_another_frame_rate(
    tiny_run: "Run", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All clips are mirrored, so the labels of moving left and moving right are exchanged."""
    drawn: list[ShownClip] = []
    run = script()

    def recording_draw_sheet(clips: Sequence[ShownClip], title: str) -> np.ndarray:
        drawn.extend(clips)
        return draw_sheet(clips, title)

    monkeypatch.setitem(run.__globals__, "draw_sheet", recording_draw_sheet)
    data = {"root": tiny_run.workdir / "moving_shapes", "aug_repeats": 2, "class_balance": 0.5}
    data |= {"fps": 6.0, "flip": 1.0, "flip_labels": "left_right", "num_frames": 6}
    overrides = [f"--config.data.{name}={value}" for name, value in data.items()]
    arguments = [*(a for a in tiny_run.arguments if not a.startswith("--workdir")), *overrides]
    arguments += ["--config.train.batch_size=16", "--count=16"]
    assert run([*arguments, f"--out={tmp_path}"]) == 0
    assert (tmp_path / "clips.png").exists()
    assert [clip.name for clip in drawn[:8]] == [clip.name for clip in drawn[8:]]
    # 6 frames of 12, every other one.
    assert {clip.position for clip in drawn} == {"frames 0 to 10"}
    exchanged = {"move_left": "move_right", "move_right": "move_left"}
    classes = [Path(clip.name).parent.name for clip in drawn]
    assert [clip.label for clip in drawn] == [exchanged.get(name, name) for name in classes]
    assert len(set(classes)) == 8


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--stepp=3",), ("'--stepp=3'", "'--step'")),
        (("--count=0",), ("--count", "0")),
        (("--config.data.siz=3",), ("'data.size'",)),
    ],
)
def test_the_script_refuses_wrong_arguments(
    arguments: tuple[str, ...],
    words: tuple[str, ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = script()
    assert run([f"--config={QUICKSTART}", f"--out={tmp_path / 'shown'}", *arguments]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert [word for word in words if word not in message] == []
    assert list(tmp_path.iterdir()) == []
