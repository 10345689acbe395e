"""The assignment of examples to shards and files, and combinations of options."""

import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from vswin_jax.data import Example
from vswin_jax.errors import InputError
from vswin_jax.prepare.options import PrepareOptions, options_from_flags
from vswin_jax.prepare.shard_plan import PreparePlan, Shard, SplitPlan, video_file


def _plan(**changes: Any) -> PreparePlan:
    splits = {"train": SplitPlan(23, "a"), "val": SplitPlan(4, "b")}
    options = PrepareOptions(**{"videos_per_shard": 5, **changes})
    return PreparePlan(options, ("jump high", "run/walk"), splits)


@pytest.mark.parametrize("to", ["records", "videos"])
def test_every_example_is_in_one_shard(to: str) -> None:
    plan = _plan(to=to)
    assert plan.shards == [*(Shard("train", k) for k in range(5)), Shard("val", 0)]
    parts = [plan.indices(shard) for shard in plan.shards]
    assert [len(part) for part in parts] == [4, 5, 4, 5, 5, 4]
    train = [*itertools.chain(*parts[:5])]
    assert sorted(train) == list(range(23))
    assert sorted(parts[5]) == list(range(4))
    assert (train == sorted(train)) == (to == "videos")


def test_a_source_sorted_by_class_is_shuffled() -> None:
    splits = {"train": SplitPlan(10_000, "")}
    plan = PreparePlan(PrepareOptions(videos_per_shard=1000), (), splits)
    # Ten classes of a thousand videos, one after another.
    for shard in plan.shards:
        counts = Counter(index // 1000 for index in plan.indices(shard))
        assert min(counts.values()) > 60
        assert len(counts) == 10


def test_a_plan_equals_its_saved_copy(tmp_path: Path) -> None:
    _plan().save(tmp_path)
    _plan().check_same(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"options": PrepareOptions(videos_per_shard=5, crf=30.0)},
            "with --crf 23.0 (not 30.0): give",
        ),
        (
            {"options": PrepareOptions(videos_per_shard=5, fastdecode=False)},
            "without --no-fastdecode",
        ),
        ({"options": PrepareOptions(videos_per_shard=6)}, "--videos-per-shard 5 (not 6)"),
        ({"label_names": ("run/walk", "jump high")}, "with other classes: give"),
        ({"splits": {"train": SplitPlan(23, "a")}}, "the splits train, val (not train)"),
        (
            {"splits": {"train": SplitPlan(23, "c"), "val": SplitPlan(4, "b")}},
            "with other videos in train: give",
        ),
    ],
)
def test_another_plan_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    _plan().save(tmp_path)
    plan = PreparePlan(**{**vars(_plan()), **change})
    with pytest.raises(InputError) as caught:
        plan.check_same(tmp_path)
    assert message in str(caught.value)


def test_a_plan_of_another_format_is_refused(tmp_path: Path) -> None:
    _plan().save(tmp_path)
    content = json.loads((tmp_path / "prepare.json").read_text())
    (tmp_path / "prepare.json").write_text(json.dumps({**content, "format_version": 0}))
    with pytest.raises(InputError, match=r"format 0 \(not 1\)"):
        _plan().check_same(tmp_path)
    (tmp_path / "prepare.json").write_text("[")
    with pytest.raises(InputError, match="was not begun by this script"):
        _plan().check_same(tmp_path)


@pytest.mark.parametrize(
    ("name", "label", "expected"),
    [
        ("run/a.b.avi", 0, "train/jump high/0000007_a.b.mp4"),
        ("../x/clip 1", 1, "train/run_walk/0000007_clip 1.mp4"),
        ('a,"\udcff\n.webm', 1, "train/run_walk/0000007_a____.mp4"),
        (".hidden", 0, "train/jump high/0000007__hidden.mp4"),
        ("é" * 200 + ".mp4", 0, f"train/jump high/0000007_{'é' * 60}.mp4"),
        ("train/7", 0, "train/jump high/0000007_7.mp4"),
    ],
)
def test_names_of_files(name: str, label: int, expected: str) -> None:
    assert video_file(_plan(), "train", Example("", label, 7, name)) == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"to": "tapes"}, "Unknown --to 'tapes'"),
        ({"store": "png"}, "Unknown --store 'png'"),
        ({"preset": "quick"}, "Unknown --preset 'quick'"),
        ({"crf": 52}, "Expected --crf from 0 to 51 but 52 came"),
        ({"gop": 0}, "Expected --gop from 1"),
        ({"fps": -1}, "Expected --fps from 0"),
        ({"fps": float("nan")}, "Expected --fps from 0"),
        ({"short_side": 255}, "Expected --short-side to be even"),
        ({"videos_per_shard": 0}, "Expected --videos-per-shard from 1"),
        ({"jpeg_quality": 0, "store": "jpeg"}, "Expected --jpeg-quality from 1"),
        ({"to": "videos", "store": "jpeg"}, "which pack records, but --to videos came"),
        ({"to": "videos", "reencode": False}, "which pack records, but --to videos came"),
        ({"store": "jpeg", "reencode": False}, "Expected one of --store jpeg and --no-reencode"),
        ({"store": "jpeg", "crf": 20}, "--crf has no effect with --store jpeg"),
        ({"store": "jpeg", "fastdecode": False}, "--no-fastdecode has no effect"),
        ({"reencode": False, "short_side": 128}, "--short-side has no effect with --no-reencode"),
        ({"jpeg_quality": 90}, "--jpeg-quality has no effect without --store jpeg"),
    ],
)
def test_contradictory_options_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        options_from_flags(given)
    assert message in str(caught.value)
    assert str(caught.value).endswith(".")
