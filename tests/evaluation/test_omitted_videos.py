"""Held-out videos that cannot be read are left out of the scores, and counted, or end the run."""

import csv
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn_videos import write_broken

from vswin_jax import main
from vswin_jax.config import base_config
from vswin_jax.data.clips.clip_spec import ClipSpec
from vswin_jax.data.example import Example, Source
from vswin_jax.data.pipeline.pipeline import eval_batches
from vswin_jax.data.sources.sources import open_source
from vswin_jax.errors import InputError
from vswin_jax.evaluation.evaluate import Omissions, evaluate
from vswin_jax.evaluation.omitted_videos import check_held_out
from vswin_jax.evaluation.results import AnyEvaluation
from vswin_jax.reporting.metrics_file import read_metrics
from vswin_jax.sharding.mesh import make_mesh, place_batch

if TYPE_CHECKING:
    from conftest import Run

SPEC = ClipSpec(num_frames=4, frame_interval=1, resize=16, size=16, num_clips=1, num_crops=1)
SPEC = replace(SPEC, eval_resize=16)
# The last of them is in the last batch, which is not full.
KINDS = ("good", "missing", "good", "truncated", "good", "good", "text")
GOOD = [index for index, kind in enumerate(KINDS) if kind == "good"]


def encode(path: Path, shade: int, frames: int = 6) -> bytes:
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=12)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for frame in range(frames):
            picture = np.full((32, 32, 3), 30 * shade + frame, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path.read_bytes()


def write_set(folder: Path, kinds: Sequence[str]) -> Path:
    """Write a list of videos, each of its own shade, of which some cannot be read."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, kind in enumerate(kinds):
        path = folder / f"{index}_{kind}.mp4"
        content = encode(path, index % 8)
        if kind == "missing":
            path.unlink()
        elif kind == "truncated":
            # The header is whole and the last picture is not.
            path.write_bytes(content[:-40])
        elif kind == "text":
            path.write_text("no video at all")
    lines = [f"{index}_{kind}.mp4 {index % 3}\n" for index, kind in enumerate(kinds)]
    (folder / "list.txt").write_text("".join(lines))
    return folder / "list.txt"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return open_source(write_set(tmp_path_factory.mktemp("set"), KINDS), must_exist=False)


@jax.jit
def eval_step(params: jax.Array, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    shade = batch["video"].astype(jnp.float32).mean(axis=(1, 2, 3, 4))
    probabilities = jax.nn.softmax(shade @ params)
    own = jnp.take_along_axis(probabilities, batch["label"][:, None], axis=1)
    return {"probabilities": probabilities, "loss": -jnp.log(own[:, 0])}


def merged(hosts: Sequence[Iterator[Mapping[str, np.ndarray]]]) -> Iterator[dict[str, np.ndarray]]:
    """Join the batches of several hosts, as the devices of all of them hold them."""
    for parts in zip(*hosts, strict=True):
        yield {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def scores(
    source: Source,
    batch_size: int = 4,
    hosts: int = 1,
    max_fraction: float = 0.9,
    processes: int = 0,
) -> AnyEvaluation:
    omitted: dict[int, str] = {}
    batches = [
        eval_batches(
            source,
            SPEC,
            batch_size=batch_size,
            process_index=host,
            process_count=hosts,
            omitted=omitted,
            processes=processes,
        )
        for host in range(hosts)
    ]
    mesh = make_mesh(data=1, devices=jax.devices()[:1])
    return evaluate(
        eval_step,
        jnp.asarray(np.random.default_rng(0).normal(size=(3, 3)).astype(np.float32)),
        merged(batches),
        num_examples=len(source),
        place=lambda batch: place_batch(batch, mesh),
        omissions=Omissions(omitted, max_fraction),
    )


@pytest.fixture(scope="module")
def alone(source: Source) -> AnyEvaluation:
    """Evaluate the good videos without the others."""
    return scores(Subset(source, GOOD))


@dataclass(frozen=True)
class Subset:
    """The examples of a source at some indices, with other videos if they are given."""

    source: Source
    indices: Sequence[int]
    videos: Mapping[int, Any] | None = None

    @property
    def label_names(self) -> Sequence[str]:
        return self.source.label_names

    @property
    def multi_label(self) -> bool:
        return False

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Example:
        example = replace(self.source[self.indices[index]], id=index)
        video = (self.videos or {}).get(index)
        return example if video is None else replace(example, video=video)


@pytest.mark.parametrize(("batch_size", "hosts"), [(1, 1), (3, 1), (4, 2), (16, 1)])
def test_scores_are_those_of_the_good_videos_for_any_batches(
    source: Source, alone: AnyEvaluation, batch_size: int, hosts: int
) -> None:
    found = scores(source, batch_size, hosts)
    np.testing.assert_array_equal(found.indices, GOOD)
    np.testing.assert_array_equal(found.labels, alone.labels)
    np.testing.assert_allclose(found.probabilities, alone.probabilities, rtol=1e-6)
    assert found.summary() == {**alone.summary(), "omitted": 3, "loss": pytest.approx(alone.loss)}
    assert list(found.omitted) == [1, 3, 6]
    words = {1: "No such file", 3: "cut short", 6: "6_text.mp4"}
    assert [index for index, word in words.items() if word not in found.omitted[index]] == []
    assert "on 4 of 7 videos" in found.describe()


class Crashing(str):
    """A path that ends the process which unpickles it."""

    __slots__ = ()

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (3,)


def test_a_video_that_crashes_its_decoding_process_is_left_out(
    source: Source, alone: AnyEvaluation
) -> None:
    crashing = Subset(source, [*GOOD, GOOD[0]], {4: Crashing("crash.mp4")})
    found = scores(crashing, processes=1)
    np.testing.assert_array_equal(found.indices, range(4))
    np.testing.assert_array_equal(found.probabilities, alone.probabilities)
    assert "crashes the process" in found.omitted[4]


def test_all_bad_videos_end_the_evaluation(source: Source) -> None:
    bad = Subset(source, [1, 3, 6])
    with pytest.raises(InputError, match=r"None of the 3 held-out videos can be read: .*1_missing"):
        scores(bad)


def test_too_many_bad_videos_end_the_evaluation(source: Source) -> None:
    most = Subset(source, [*GOOD * 5, *[1, 3, 6] * 3])
    found = r"At least \d+ of the 29 held-out videos cannot be read, more than .*\(0\.05\) allows"
    with pytest.raises(InputError, match=found):
        scores(most, max_fraction=0.05)
    with pytest.raises(InputError, match="At least 2 of the 7 held-out videos"):
        scores(source, max_fraction=0.0)


def test_without_omissions_a_bad_video_is_an_error(source: Source) -> None:
    with pytest.raises(InputError, match="1_missing"):
        list(eval_batches(source, SPEC, batch_size=4))


def test_missing_files_are_counted_before_a_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = base_config()
    few = open_source(write_set(tmp_path, ["good", "missing", "good"]), must_exist=False)
    check_held_out(few, config)
    assert "1 of 3 held-out videos cannot be scored: '1_missing.mp4' is missing" in caplog.text
    (tmp_path / "list.txt").write_text("0_good.mp4 0\n" * 10 + "gone.mp4 0\n" * 10)
    many = open_source(tmp_path / "list.txt", must_exist=False)
    with pytest.raises(InputError, match="10 of the 20 held-out videos are missing"):
        check_held_out(many, config)


@pytest.mark.parametrize("processes", [0, 1])
def test_a_strict_run_opens_every_file_at_its_start(
    tmp_path: Path, source: Source, processes: int
) -> None:
    config = base_config()
    config.eval.strict = True
    config.data.processes = processes
    check_held_out(open_source(write_set(tmp_path, ["good"] * 3)), config)
    with pytest.raises(InputError, match=r"3 of the 7 .* cannot be opened, .*eval\.strict.*: .*1_"):
        check_held_out(source, config)


@pytest.fixture(scope="module")
def arguments(
    tiny_run: "Run", tiny_arguments: Sequence[str], tmp_path_factory: pytest.TempPathFactory
) -> list[str]:
    """Return the arguments of a run with a held-out set of eight videos, one of them bad."""
    folder = tmp_path_factory.mktemp("held_out")
    videos = sorted((tiny_run.workdir / "moving_shapes" / "test").glob("*/*.mp4"))
    for video in videos:
        (folder / video.parent.name).mkdir()
        (folder / video.parent.name / video.name).write_bytes(video.read_bytes())
    (folder / "grow" / "scene_00000.mp4").write_text("no video at all")
    return [
        *(argument for argument in tiny_arguments if "train." not in argument),
        "--config.data.kind=files",
        f"--config.data.train={tiny_run.workdir / 'moving_shapes' / 'train'}",
        f"--config.data.eval={folder}",
        "--config.train.duration=4 steps",
        "--config.train.eval_every=2 steps",
        "--config.train.checkpoint_every=4 steps",
    ]


def test_a_run_counts_a_bad_video_and_goes_on(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run([*arguments, f"--workdir={tmp_path}"]) == 0
    captured = capsys.readouterr()
    assert "on 7 of 8 videos, 1 unreadable: see bad_held_out_videos.csv" in captured.err
    assert "on 7 of 8 videos (1 unreadable: see bad_held_out_videos.csv there)" in captured.out
    summary = json.loads((tmp_path / "evaluation" / "summary.json").read_text())
    assert (summary["videos"], summary["omitted"]) == (7, 1)
    for directory in (tmp_path, tmp_path / "evaluation"):
        with (directory / "bad_held_out_videos.csv").open(newline="") as file:
            (row,) = csv.DictReader(file)
        assert row["path"] == os.path.join("grow", "scene_00000.mp4")
        assert row["reason"]
    with (tmp_path / "evaluation" / "predictions.csv").open(newline="") as file:
        named = [row["video"] for row in csv.DictReader(file)]
    assert len(named) == 7
    assert row["path"] not in named
    scored = read_metrics(tmp_path / "metrics.jsonl", "quick")
    assert [(entry["videos"], entry["omitted"]) for entry in scored] == [(7, 1), (7, 1)]


@pytest.mark.long
def test_a_strict_run_stops_after_its_step_is_saved(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    held_out = next(a for a in arguments if "data.eval" in a).partition("=")[2]
    target = tmp_path / "copy"
    for video in Path(held_out).glob("*/*.mp4"):
        (target / video.parent.name).mkdir(parents=True)
        (target / video.parent.name / video.name).write_bytes(video.read_bytes())
    (target / "grow" / "scene_00000.mp4").unlink()
    write_broken(target / "grow" / "broken.mov")
    command = [*arguments, f"--config.data.eval={target}", f"--workdir={tmp_path / 'run'}"]
    assert main.run([*command, "--config.eval.strict=true"]) == 2
    captured = capsys.readouterr()
    assert "broken.mov" in captured.err.splitlines()[-1]
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["2"]
    assert not read_metrics(tmp_path / "run" / "metrics.jsonl", "quick")
    # The same command without the flag evaluates step 2 and goes on from there.
    assert main.run(command) == 0
    steps = [entry["step"] for entry in read_metrics(tmp_path / "run" / "metrics.jsonl", "quick")]
    assert steps == [2, 4]
    assert "resuming after step 2" in capsys.readouterr().err
    assert len(read_metrics(tmp_path / "run" / "metrics.jsonl", "final")) == 1
