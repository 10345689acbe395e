"""Runs that resume with other videos or settings: said, or refused without --allow_changes."""

import json
import logging
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from vswin_jax import main
from vswin_jax.checkpoint import Checkpoints, read_metadata
from vswin_jax.config import base_config
from vswin_jax.data.example import Source
from vswin_jax.data.sources.annotations import AnnotationRow
from vswin_jax.data.sources.sources import VideoSource, open_source
from vswin_jax.errors import InputError
from vswin_jax.training.resume_check import DATA, check_changes, describe_data

if TYPE_CHECKING:
    from conftest import Run

VIDEOS = (("a.mp4", "run"), ("b.mp4", "run"), ("c.mp4", "jump"), ("d.mp4", "jump"))


def source_of(folder: Path, videos: Sequence[tuple[str, str]] = VIDEOS) -> Source:
    """Open a CSV of videos that exist; nothing reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, _ in videos:
        (folder / name).touch()
    rows = ["path,label", *(",".join(video) for video in videos)]
    (folder / "list.csv").write_text("\n".join(rows))
    return open_source(folder / "list.csv")


def workdir_with(directory: Path, metadata: dict[str, Any]) -> Path:
    with Checkpoints(directory / "checkpoints") as checkpoints:
        checkpoints.save(3, {"params": {"bias": jnp.zeros(2)}}, metadata)
    return directory


@pytest.fixture
def check(tmp_path: Path) -> Callable[..., None]:
    """Return a function that checks a run against a checkpoint of `VIDEOS` and base settings."""
    known = describe_data(source_of(tmp_path / "known"), source_of(tmp_path / "known"))
    metadata = {"config": base_config().to_dict(), DATA: known}
    workdir = workdir_with(tmp_path / "run", metadata)

    def check(
        train: Source | None = None,
        held_out: Source | None = None,
        config: ConfigDict | None = None,
        allow_changes: bool = False,
    ) -> None:
        usual = source_of(tmp_path / "known")
        data = describe_data(train or usual, held_out or usual)
        check_changes(config or base_config(), workdir, data, allow_changes=allow_changes)

    return check


def test_the_same_videos_in_another_place_are_the_same(
    check: Callable[..., None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = base_config()
    config.data.train = config.data.eval = str(tmp_path / "moved" / "list.csv")
    with caplog.at_level(logging.INFO, "vswin_jax"):
        check(source_of(tmp_path / "moved"), source_of(tmp_path / "moved"), config)
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("INFO", f"resuming with a change: config.data.{name} is {config.data.train!r} and was ''")
        for name in ("eval", "train")
    ]


OTHER_VIDEOS = {
    "one more": ((*VIDEOS, ("e.mp4", "run")), "there are 5 training videos and were 4"),
    "one less": (VIDEOS[:3], "there are 3 training videos and were 4"),
    "another one": ((*VIDEOS[:3], ("e.mp4", "jump")), "the 4 training videos have other names"),
    "another label": (
        (*VIDEOS[:2], ("c.mp4", "run"), VIDEOS[3]),
        "the 4 training videos have other names or labels, or another order",
    ),
    "another order": (VIDEOS[::-1], "or another order"),
}


@pytest.mark.parametrize(("videos", "description"), OTHER_VIDEOS.values(), ids=OTHER_VIDEOS)
def test_other_videos_need_the_flag(
    videos: Sequence[tuple[str, str]],
    description: str,
    check: Callable[..., None],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    other = source_of(tmp_path / "other", videos)
    with pytest.raises(InputError) as refused:
        check(other)
    assert description in str(refused.value)
    assert "add --allow_changes" in str(refused.value)
    assert caplog.records == []
    check(other, allow_changes=True)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert description in record.message
    with pytest.raises(InputError, match=description.replace("training", "held-out")):
        check(held_out=other)


def test_many_changes_are_named_in_one_sentence(
    check: Callable[..., None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = base_config()
    config.optim.update(learning_rate=0.5, weight_decay=0.1, b1=0.5, b2=0.5, eps=0.1, clip_norm=9)
    config.train.log_every = "1 steps"
    other = source_of(tmp_path / "other", VIDEOS[:3])
    with pytest.raises(InputError) as refused:
        check(other, config=config)
    assert "but there are 3 training videos and were 4, config.optim.b1 is 0.5" in str(
        refused.value
    )
    assert "(and 1 more), so the steps" in str(refused.value)
    with caplog.at_level(logging.INFO, "vswin_jax"):
        check(other, config=config, allow_changes=True)
    assert [record.levelname for record in caplog.records].count("WARNING") == 7
    assert [record.levelname for record in caplog.records].count("INFO") == 1


@pytest.mark.parametrize("metadata", [{}, {"label_names": ["jump", "run"]}, {"config": {}}])
def test_what_a_checkpoint_does_not_hold_is_not_compared(
    metadata: dict[str, Any], tmp_path: Path
) -> None:
    workdir = workdir_with(tmp_path / "run", metadata)
    source = source_of(tmp_path / "set")
    check_changes(base_config(), workdir, describe_data(source, source), allow_changes=False)


def test_a_new_run_has_nothing_to_compare_with(tmp_path: Path) -> None:
    source = source_of(tmp_path / "set")
    for workdir in (tmp_path / "missing", tmp_path):
        check_changes(base_config(), workdir, describe_data(source, source), allow_changes=False)


def test_the_digest_depends_on_names_labels_and_their_order_alone() -> None:
    """A digest that depended on the process or the machine would refuse every restart."""
    rows = [AnnotationRow(0, f"{name}.mp4", "run") for name in ("a", "ü", "b\udcff")]
    labels = np.zeros(3, np.int32)
    first, second = (VideoSource(rows, labels, ("run",), root, frames=False) for root in "xy")
    # Checkpoints hold it, so it must stay as it is.
    known = "478c"
    assert first.identity[:4] == second.identity[:4] == known


@pytest.mark.parametrize(
    ("change", "description"),
    [
        ("--config.train.batch_size=8", "config.train.batch_size is 8 and was 4"),
        ("--config.train.duration=60 steps", "config.train.duration is '60 steps' and was '40"),
        ("--config.optim.learning_rate=0.1", "config.optim.learning_rate is 0.1 and was 0.002"),
        ("--config.data.frame_interval=2", "config.data.frame_interval is 2 and was 1"),
    ],
)
def test_a_run_of_the_command_line_is_refused_and_leaves_its_files(
    change: str, description: str, tiny_run: "Run", capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in tiny_run.workdir.rglob("*")}
    assert main.run([*tiny_run.arguments, change]) == 2
    *_, last = capsys.readouterr().err.splitlines()
    assert last.startswith("error: Expected to resume ")
    assert description in last
    assert {path: path.stat().st_mtime_ns for path in tiny_run.workdir.rglob("*")} == before


@pytest.mark.long
def test_a_run_resumes_with_other_videos_and_a_longer_schedule_if_it_is_told_to(
    tiny_run: "Run", tiny_arguments: tuple[str, ...], tmp_path: Path, capsys: Any
) -> None:
    workdir = Path(shutil.copytree(tiny_run.workdir, tmp_path / "run"))
    videos = tmp_path / "videos"
    for split in ("train", "test"):
        shutil.copytree(tiny_run.workdir / "moving_shapes" / split, videos / split)
    for path in videos.glob("train/*/*.mp4"):
        shutil.copy(path, path.with_name("second.mp4"))
    arguments = (
        *tiny_arguments,
        "--config.data.kind=files",
        f"--config.data.train={videos / 'train'}",
        f"--config.data.eval={videos / 'test'}",
        f"--workdir={workdir}",
        "--config.train.duration=42 steps",
    )
    assert main.run(arguments) == 2
    refused = capsys.readouterr().err
    assert "there are 16 training videos and were 8, config.train.duration is" in refused
    assert "held-out" not in refused
    assert main.run([*arguments, "--allow_changes"]) == 0
    logged = capsys.readouterr().err
    assert "resuming with a change: there are 16 training videos and were 8" in logged
    assert "resuming with a change: config.data.kind is 'files' and was 'moving_shapes'" in logged
    assert read_metadata(workdir / "checkpoints" / "42")[DATA]["train"]["videos"] == 16
    assert json.loads((workdir / "config.json").read_text())["train"]["duration"] == "42 steps"
    # The checkpoint has the new settings and videos now.
    assert main.run(arguments) == 0
    assert "finished: all 42 steps" in capsys.readouterr().out
