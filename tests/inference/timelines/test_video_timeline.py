"""Timelines of long videos: scores, segments, files, a second start, damage."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np
import pytest
from drawn_videos import write_broken
from PIL import Image

import vswin_jax
from vswin_jax.data.clips import transforms
from vswin_jax.data.decoding.decode import open_video
from vswin_jax.errors import InputError
from vswin_jax.inference.timelines.frame_stream import FrameStream
from vswin_jax.inference.timelines.window_scores import WindowScorer
from vswin_jax.timeline import Timeline, timeline

if TYPE_CHECKING:
    from conftest import Run

FILES = ("scores.npy", "segments.csv", "settings.json", "timeline.csv", "timeline.json")
PICTURE = "timeline.png"
RATE = 24
# A threshold that the classes of a model without training reach here and there.
LOW = 0.13


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write nine seconds of moving textures with a tone."""
    path = tmp_path_factory.mktemp("long") / "long.mp4"
    textures = np.random.default_rng(0).integers(0, 256, (3, 4, 6, 3), dtype=np.uint8)
    frames = [
        np.roll(textures[index // 72].repeat(8, 0).repeat(8, 1), 2 * index, axis=index // 72 % 2)
        for index in range(216)
    ]
    write_with_tone(path, frames)
    return path


def write_with_tone(path: Path, frames: list[np.ndarray]) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        sound = container.add_stream("aac", rate=16000, layout="mono")
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
        seconds = np.arange(16000 * len(frames) // RATE, dtype=np.float32) / 16000
        tone = np.sin(440 * 2 * np.pi * seconds)[None] / 2
        for start in range(0, tone.shape[1] - 1023, 1024):
            part = np.ascontiguousarray(tone[:, start : start + 1024])
            heard = av.AudioFrame.from_ndarray(part, format="fltp", layout="mono")
            heard.sample_rate, heard.pts, heard.time_base = 16000, start, Fraction(1, 16000)
            container.mux(sound.encode(heard))
        container.mux(sound.encode())


@pytest.fixture(scope="module")
def written(
    video: Path, scorer: WindowScorer, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Timeline]:
    out = tmp_path_factory.mktemp("timeline") / "out"
    found = timeline(video, scorer, stride=0.25, threshold=LOW, out=out, topk=2)
    return out, found


def test_windows_are_scored_as_clips_of_their_frames(
    video: Path, scorer: WindowScorer, written: tuple[Path, Timeline]
) -> None:
    found = written[1]
    assert found.duration == pytest.approx(9)
    assert found.failure == ""
    # Clips of 4 frames last a sixth of a second.
    np.testing.assert_allclose(found.starts[:3], [0, 0.25, 0.5])
    np.testing.assert_allclose(found.ends[-1], 9)
    assert len(found.starts) == 37
    spec = scorer.spec
    with open_video(video) as opened:
        for window in (0, 1, 17, 36):
            first = round(found.starts[window] * RATE)
            frames = opened.decode(
                first + np.arange(4),
                lambda frame, _: transforms.resize_short_side(frame, spec.eval_short_side),
            )
            clip = np.stack(transforms.eval_crops(frames, spec.num_crops, spec.size))
            expected = np.asarray(scorer.model.probabilities(clip)).mean(0)
            np.testing.assert_allclose(found.probabilities[window], expected, atol=1e-6)


def test_a_video_of_one_clip_has_the_prediction(
    tiny_run: "Run", scorer: WindowScorer, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    write_with_tone(tmp_path / "a.mp4", [*rng.integers(0, 256, (4, 32, 48, 3), np.uint8)])
    found = timeline(tmp_path / "a.mp4", scorer)
    predictor = vswin_jax.Predictor(tiny_run.workdir, topk=8, views=(1, scorer.spec.num_crops))
    (expected,) = predictor(str(tmp_path / "a.mp4"))
    shares = dict(zip(found.label_names, found.probabilities[0].tolist(), strict=True))
    expected_shares = dict(zip(expected.labels, expected.probabilities, strict=True))
    assert shares == pytest.approx(expected_shares, abs=1e-6)


def test_files_have_the_windows_and_the_segments(written: tuple[Path, Timeline]) -> None:
    out, found = written
    assert sorted(path.name for path in out.iterdir()) == sorted((*FILES, PICTURE))
    np.testing.assert_array_equal(np.load(out / "scores.npy"), found.probabilities)
    content = json.loads((out / "timeline.json").read_text())
    assert (content["duration"], content["error"]) == (9.0, None)
    assert len(content["windows"]) == 37
    label, share = found.top_classes(5, 1)[0]
    assert content["windows"][5]["classes"][0] == label
    assert content["windows"][5]["probabilities"][0] == share
    assert [part["class"] for part in content["segments"]] == [p.label for p in found.segments]
    assert found.segments
    with (out / "timeline.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["start", "end", "class_1", "probability_1", "class_2", "probability_2"]
    assert (rows[5]["class_1"], float(rows[5]["probability_1"])) == (label, share)
    with (out / "segments.csv").open(newline="") as file:
        parts = list(csv.DictReader(file))
    assert [part["class"] for part in parts] == [part.label for part in found.segments]
    with Image.open(out / PICTURE) as picture:
        assert picture.size[0] == 1430


def test_another_threshold_takes_the_stored_scores(
    video: Path, scorer: WindowScorer, written: tuple[Path, Timeline]
) -> None:
    out, first = written
    before = (out / "scores.npy").stat().st_mtime_ns
    again = timeline(video, scorer, stride=0.25, threshold=0.9, out=out, topk=2)
    assert again.segments == ()
    np.testing.assert_array_equal(again.probabilities, first.probabilities)
    assert (out / "scores.npy").stat().st_mtime_ns == before
    timeline(video, scorer, stride=0.25, threshold=LOW, out=out, topk=2)


def test_other_settings_are_refused_or_overwrite(
    video: Path, scorer: WindowScorer, tmp_path: Path
) -> None:
    timeline(video, scorer, stride=3, out=tmp_path / "a")
    with pytest.raises(InputError, match=r"is of other settings \(windows 4, not 6; stride"):
        timeline(video, scorer, stride=2, out=tmp_path / "a")
    found = timeline(video, scorer, stride=2, out=tmp_path / "a", overwrite=True)
    assert len(np.load(tmp_path / "a" / "scores.npy")) == len(found.starts) == 6
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "notes.txt").touch()
    with pytest.raises(InputError, match=r"has 'notes.txt' and no settings\.json"):
        timeline(video, scorer, out=tmp_path / "b")


PROGRAM = """
import os, signal, sys
from vswin_jax.inference.timelines import score_store
import vswin_jax

add, count = score_store.ScoreStore.add, 0

def add_and_die(self, rows):
    global count
    add(self, rows)
    count += 1
    if count == 3:
        os.kill(os.getpid(), signal.SIGKILL)

score_store.ScoreStore.add = add_and_die
video, checkpoint, out = sys.argv[1:]
vswin_jax.timeline(video, checkpoint, stride=0.25, threshold=0.13, out=out, topk=2)
"""


@pytest.mark.long
def test_a_killed_start_goes_on_and_ends_in_the_same_files(
    video: Path,
    tiny_run: "Run",
    scorer: WindowScorer,
    written: tuple[Path, Timeline],
    compiled_programs: Path,
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(compiled_programs)}
    command = [sys.executable, "-c", PROGRAM, str(video), str(tiny_run.workdir), str(out)]
    killed = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert killed.returncode == -9, killed.stderr
    assert len((out / "scores.part").read_bytes()) == 24 * 8 * 4
    # A part of a row, as a kill within a write leaves it; and rows that are no whole batch.
    with (out / "scores.part").open("ab") as file:
        file.write(bytes(8 * 4 + 3))
    lines: list[str] = []
    timeline(video, scorer, stride=0.25, threshold=LOW, out=out, topk=2, report=lines.append)
    assert lines[0].startswith("37 windows of 9 s, 24 of them computed before; ")
    for name in (*FILES, PICTURE):
        assert (out / name).read_bytes() == (written[0] / name).read_bytes(), name


def test_windows_before_damage_are_kept(scorer: WindowScorer, tmp_path: Path) -> None:
    write_broken(tmp_path / "a.mov", count=48, first=26)
    found = timeline(tmp_path / "a.mov", scorer, stride=0.5, out=tmp_path / "out")
    # 12 frames a second: windows begin at 0, 6, 12, ..., and frame 26 is the first bad one.
    assert found.starts.tolist() == [0, 0.5, 1, 1.5]
    assert "a.mov" in found.failure
    content = json.loads((tmp_path / "out" / "timeline.json").read_text())
    assert content["error"] == found.failure
    again = timeline(tmp_path / "a.mov", scorer, stride=0.5, out=tmp_path / "out")
    np.testing.assert_array_equal(again.probabilities, found.probabilities)
    assert again.failure == found.failure
    write_broken(tmp_path / "b.mov", count=48, first=2)
    with pytest.raises(InputError, match=r"b\.mov"):
        timeline(tmp_path / "b.mov", scorer)


def test_a_video_with_its_classes_has_all_frames_and_the_sound(
    video: Path, scorer: WindowScorer, tmp_path: Path
) -> None:
    path = tmp_path / "labelled.mp4"
    found = timeline(video, scorer, stride=0.25, threshold=LOW, annotate=path)
    with av.open(str(path)) as container, av.open(str(video)) as original:
        (stream,), (sound,) = container.streams.video, container.streams.audio
        # 32 pixels are enlarged to read the text.
        assert (stream.width, stream.height) == (288, 192)
        frames = list(container.decode(video=0))
        assert len(frames) == 216
        assert frames[100].time == pytest.approx(100 / RATE, abs=1e-3)
        packets = sum(bool(packet.size) for packet in original.demux(original.streams.audio[0]))
        assert abs(sound.frames - packets) <= 1
    labelled = next(part for part in found.segments if part.end - part.start > 0.2)
    middle = round((labelled.start + labelled.end) / 2 * RATE)
    corner = frames[middle].to_ndarray(format="rgb24")[:4, :4]
    assert corner.max() < 40


def test_only_frames_of_some_windows_are_in_memory(
    video: Path, scorer: WindowScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    chunks = FrameStream.chunks

    def counted(self: FrameStream, *arguments: int) -> object:
        for chunk in chunks(self, *arguments):
            sizes.append(len(chunk))
            yield chunk

    monkeypatch.setattr(FrameStream, "chunks", counted)
    monkeypatch.setattr("vswin_jax.inference.timelines.frame_stream._CHUNK_BYTES", 4 * 16 * 24 * 3)
    timeline(video, scorer, stride=0.25)
    # Each of the needed frames once, four at a time.
    assert max(sizes) == 4
    assert sum(sizes) == 37 * 4 - 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: {"video": path / "none.mp4"}, "There is no video file"),
        (lambda path: {"stride": 0}, "Expected the stride as seconds above 0"),
        (lambda path: {"threshold": 2}, "Expected a threshold between 0 and 1"),
        (lambda path: {"out": path / "a.txt"}, r"a\.txt' is a file"),
        (lambda path: {"window": 3.0}, "leave it away"),
    ],
)
def test_wrong_input_is_one_sentence(
    change: Callable[[Path], dict[str, object]],
    message: str,
    video: Path,
    scorer: WindowScorer,
    tmp_path: Path,
) -> None:
    (tmp_path / "a.txt").touch()
    options = {"video": video, **change(tmp_path)}
    with pytest.raises(InputError, match=message):
        timeline(options.pop("video"), scorer, **options)
