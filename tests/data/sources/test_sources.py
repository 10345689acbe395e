import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from vswin_jax.data import FrameFolder, open_source
from vswin_jax.data.sources.sources import VideoSource

from .conftest import open_error, touch


def _list(folder: Path, *lines: str, name: str = "list.txt") -> Path:
    path = folder / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _content(source: VideoSource) -> list[tuple[str, int]]:
    examples = [source[i] for i in range(len(source))]
    assert [example.id for example in examples] == list(range(len(source)))
    return [(example.name, example.label) for example in examples]


def test_list_of_paths_and_indices(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "sub/b c.mp4", "d.mp4")
    path = _list(tmp_path, "a.mp4 0", "", "sub/b c.mp4\t2", "  d.mp4   1  ")
    source = open_source(path)
    assert _content(source) == [("a.mp4", 0), ("sub/b c.mp4", 2), ("d.mp4", 1)]
    assert source.label_names == ("0", "1", "2")
    assert source[1].video == str(tmp_path / "sub/b c.mp4")


def test_list_of_paths_and_names_sorts_the_classes(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    source = open_source(_list(tmp_path, "a.mp4 run", "b.mp4 jump", "c.mp4 3"))
    assert source.label_names == ("3", "jump", "run")
    assert _content(source) == [("a.mp4", 2), ("b.mp4", 1), ("c.mp4", 0)]


def test_root_and_absolute_paths(tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    touch(videos, "a.mp4")
    touch(tmp_path, "b.mp4")
    path = _list(tmp_path, "a.mp4 0", f"{tmp_path / 'b.mp4'} 0")
    source = open_source(path, root=videos)
    assert [source[i].video for i in (0, 1)] == [str(videos / "a.mp4"), str(tmp_path / "b.mp4")]


@pytest.mark.parametrize("header", ["path,label", "Label, Video", "youtube,class,filename"])
def test_csv(tmp_path: Path, header: str) -> None:
    touch(tmp_path, "a, b.mp4", "c.mp4")
    columns = [name.strip().lower() for name in header.split(",")]
    lines = [header]
    for video, label in (('"a, b.mp4"', "jump high"), ("c.mp4", "run")):
        cells = [
            label if name in ("label", "class") else "x" if name == "youtube" else video
            for name in columns
        ]
        lines.append(",".join(cells))
    source = open_source(_list(tmp_path, *lines, name="list.csv"))
    assert _content(source) == [("a, b.mp4", 0), ("c.mp4", 1)]
    assert source.label_names == ("jump high", "run")


def test_json_lines_and_array(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    records = [{"path": "a.mp4", "label": "run"}, {"filename": "b.mp4", "label": ["jump"]}]
    lines = _list(tmp_path, *map(json.dumps, records), name="list.jsonl")
    array = _list(tmp_path, json.dumps(records, indent=1), name="list.json")
    for path in (lines, array):
        assert _content(open_source(path)) == [("a.mp4", 1), ("b.mp4", 0)]


@pytest.mark.parametrize(
    ("name", "lines", "sets"),
    [
        ("l.txt", ["a b.mp4 run;jump", "c.mp4 jump", "d.mp4 run;run"], [(0, 1), (0,), (1,)]),
        ("l.csv", ["path,label", "a b.mp4,run; jump", "c.mp4,jump", "d.mp4,"], [(0, 1), (0,), ()]),
        (
            "l.jsonl",
            [
                '{"path": "a b.mp4", "label": ["run", "jump"]}',
                '{"path": "c.mp4", "label": "jump"}',
                '{"path": "d.mp4", "label": []}',
            ],
            [(0, 1), (0,), ()],
        ),
    ],
    ids=["lines", "csv", "json"],
)
def test_sets_of_labels(
    tmp_path: Path, name: str, lines: list[str], sets: list[tuple[int, ...]]
) -> None:
    """Classes are in ascending order, each once; JSON and CSV may have empty sets."""
    touch(tmp_path, "a b.mp4", "c.mp4", "d.mp4")
    source = open_source(_list(tmp_path, *lines, name=name), multi_label=True)
    assert source.label_names == ("jump", "run")
    assert source.multi_label
    assert _content(source) == list(zip(("a b.mp4", "c.mp4", "d.mp4"), sets, strict=True))


def test_sets_of_numbers(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    path = _list(tmp_path, "a.mp4 2;0", "b.mp4 1")
    assert _content(open_source(path, multi_label=True)) == [("a.mp4", (0, 2)), ("b.mp4", (1,))]
    given = open_source(path, multi_label=True, label_names=["x", "y", "z"])
    assert given.label_names == ("x", "y", "z")
    assert "line 1: the label must be from 0 to 1 but is 2" in open_error(
        path, multi_label=True, num_classes=2
    )
    records = [{"path": "a.mp4", "label": [0, 2]}, {"path": "b.mp4", "label": [5]}]
    gap = _list(tmp_path, *map(json.dumps, records), name="l.jsonl")
    assert "Class 1 of" in open_error(gap, multi_label=True)
    assert "line 2: the label must be" in open_error(gap, multi_label=True, num_classes=3)


def test_an_unknown_name_in_a_set_of_labels(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    path = _list(tmp_path, "path,label", "a.mp4,", "b.mp4,run;jump", "c.mp4,run;fly", name="l.csv")
    message = open_error(path, multi_label=True, label_names=["jump", "run"])
    assert "line 4: class 'fly' is not among the 2 classes" in message


def test_semicolons_are_part_of_a_name_if_videos_have_one_label(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    source = open_source(_list(tmp_path, "a.mp4 run;jump", "b.mp4 run"))
    assert source.label_names == ("run", "run;jump")
    assert not source.multi_label
    assert source.labels.dtype == np.int32
    assert source.labels.tolist() == [1, 0]


@pytest.mark.parametrize("labels", [["run", "jump"], []])
def test_several_labels_without_multi_label_are_refused(tmp_path: Path, labels: list[str]) -> None:
    touch(tmp_path, "a.mp4")
    path = _list(tmp_path, json.dumps({"path": "a.mp4", "label": labels}), name="l.jsonl")
    message = open_error(path)
    assert f"line 1: expected one label but {len(labels)} came" in message
    assert "data.multi_label" in message


@pytest.mark.parametrize(
    ("name", "lines", "message"),
    [
        ("l.txt", ["a.mp4 run", "a.mp4 run; jump"], "line 2: expected a path and labels with"),
        ("l.txt", ["a.mp4 run;;jump"], "line 1: expected a path and labels with"),
        ("l.txt", ["a.mp4"], "line 1: expected `path label`"),
        ("l.csv", ["path,label", "a.mp4,run;"], "line 2: expected a path and labels with"),
        ("l.csv", ["path,label", ",run"], "line 2: expected a path and a label"),
        ("l.csv", ["path,label", "a.mp4,"], "No video of"),
        ("l.jsonl", ['{"path": "a.mp4", "label": ["run", ""]}'], '"label": [3, 5]} but'),
        ("l.jsonl", ['{"path": "a.mp4", "label": [["run"]]}'], "line 1: expected an object"),
    ],
)
def test_malformed_lists_of_label_sets(
    tmp_path: Path, name: str, lines: list[str], message: str
) -> None:
    touch(tmp_path, "a.mp4")
    assert message in open_error(_list(tmp_path, *lines, name=name), multi_label=True)


def test_folders_and_frames_with_multi_label(tmp_path: Path) -> None:
    touch(tmp_path, "set/run/1.mp4", "set/jump/2.mp4")
    folder = open_source(tmp_path / "set", multi_label=True)
    assert _content(folder) == [("jump/2.mp4", (0,)), ("run/1.mp4", (1,))]
    _write_frames(tmp_path / "clip", 3)
    frames = open_source(_list(tmp_path, "clip 3 0;1"), multi_label=True)
    assert frames[0].video == FrameFolder(str(tmp_path / "clip"), 3)
    assert frames[0].label == (0, 1)


def test_published_list_with_multi_label(tmp_path: Path) -> None:
    touch(tmp_path, "run/x_000001_000011.mp4")
    header = "label,youtube_id,time_start,time_end,split"
    path = _list(tmp_path, header, "run,x,1,11,val", "jump,y,1,11,val", name="val.csv")
    source = open_source(path, multi_label=True)
    assert source.label_names == ("jump", "run")
    assert [source[i].label for i in range(len(source))] == [(1,)]


def test_folder_of_classes(tmp_path: Path) -> None:
    touch(tmp_path, "run/2.mp4", "run/1.MKV", "run/notes.txt", "jump/a b.mov", ".cache/x.mp4")
    touch(tmp_path, "run/._1.mp4", "readme.md")
    source = open_source(tmp_path)
    assert source.label_names == ("jump", "run")
    assert _content(source) == [("jump/a b.mov", 0), ("run/1.MKV", 1), ("run/2.mp4", 1)]
    assert source[0].video == str(tmp_path / "jump/a b.mov")


def test_numeric_folder_names_are_class_names(tmp_path: Path) -> None:
    touch(tmp_path, "10/a.mp4", "9/b.mp4")
    source = open_source(tmp_path)
    assert source.label_names == ("10", "9")
    evaluation = open_source(
        _list(tmp_path, "9/b.mp4 9", "10/a.mp4 10"), label_names=source.label_names
    )
    assert _content(evaluation) == [("9/b.mp4", 1), ("10/a.mp4", 0)]


def _write_frames(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    for number in range(1, count + 1):
        cv2.imwrite(str(folder / f"img_{number:05}.jpg"), np.zeros((8, 8, 3), np.uint8))


@pytest.mark.parametrize("kind", ["auto", "frames"])
def test_raw_frames(tmp_path: Path, kind: str) -> None:
    _write_frames(tmp_path / "run" / "clip 1", 3)
    _write_frames(tmp_path / "jump" / "clip", 2)
    listed = open_source(_list(tmp_path, "run/clip 1 3 0", "jump/clip 2 1"), kind=kind)
    assert listed[0].video == FrameFolder(str(tmp_path / "run/clip 1"), 3)
    assert _content(listed) == [("run/clip 1", 0), ("jump/clip", 1)]
    (tmp_path / "list.txt").unlink()
    folder = open_source(tmp_path, kind=kind)
    assert _content(folder) == [("jump/clip", 0), ("run/clip 1", 1)]
    assert folder[1].video == FrameFolder(str(tmp_path / "run/clip 1"))


def test_an_evaluation_set_uses_the_classes_of_the_training_set(tmp_path: Path) -> None:
    touch(tmp_path, "eval/run/a.mp4")
    names = ("crawl", "jump", "run")
    source = open_source(tmp_path / "eval", label_names=names, num_classes=3)
    assert source.label_names == names
    assert _content(source) == [("run/a.mp4", 2)]
    touch(tmp_path, "eval/swim/a.mp4")
    message = open_error(tmp_path / "eval", label_names=names)
    assert "class 'swim' is not among the 3 classes" in message
    assert "'crawl', 'jump', 'run'" in message


def test_labels_are_checked_against_the_number_of_classes(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    path = _list(tmp_path, "a.mp4 0", "b.mp4 5")
    assert len(open_source(path, num_classes=6).label_names) == 6
    assert "line 2: the label must be from 0 to 4 but is 5" in open_error(path, num_classes=5)
    assert "line 2: the label must be from 0 to 1" in open_error(path, label_names=["x", "y"])
    assert "Class 1 of" in open_error(path)
    negative = _list(tmp_path, "a.mp4 -1", name="negative.txt")
    assert "line 1" in open_error(negative)
    named = _list(tmp_path, "a.mp4 x", "b.mp4 y", name="named.txt")
    assert "3 classes" in open_error(named, num_classes=3)
    assert "3 classes" in open_error(named, label_names=["x", "y"], num_classes=3)


def test_labels_that_count_from_one_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    assert "Class 0 of" in open_error(_list(tmp_path, "a.mp4 1", "b.mp4 2"))


@pytest.mark.parametrize(
    ("name", "lines", "kind", "expected"),
    [
        ("l.txt", ["a.mp4 0", "a.mp4"], "auto", "line 2: expected `path label`"),
        ("l.txt", ["a.mp4 7"], "frames", "line 1: expected `folder number-of-frames label`"),
        ("l.csv", ["path,kind", "a.mp4,0"], "auto", "'path, kind'"),
        ("l.csv", ["path,label", "a.mp4,0", "a.mp4"], "auto", "line 3: expected a path and a"),
        ("l.jsonl", ['{"path": "a.mp4", "label": 0}', "{"], "auto", "line 2: this is not JSON"),
        ("l.jsonl", ['{"path": "a.mp4"}'], "auto", "line 1: expected an object"),
        ("l.json", ['[{"path": "a.mp4", "label": true}]'], "auto", "line 1: expected an object"),
        ("l.txt", [""], "auto", "lists no videos"),
        ("l.txt", ["a.mp4 0"], "folder", "is a file"),
        ("l.txt", ["a.mp4 0"], "webdataset", "Unknown data format 'webdataset'"),
    ],
)
def test_malformed_lists(
    tmp_path: Path, name: str, lines: list[str], kind: str, expected: str
) -> None:
    touch(tmp_path, "a.mp4")
    message = open_error(_list(tmp_path, *lines, name=name), kind=kind)
    assert expected in message


def test_missing_files_are_reported_on_opening(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4")
    path = _list(tmp_path, "a.mp4 0", "b.mp4 0", "c.mp4 0")
    message = open_error(path)
    assert "line 2: there is no 'b.mp4'" in message
    assert "2 of 3 are missing" in message
    assert len(open_source(path, must_exist=False)) == 3
    (tmp_path / "a.mp4").unlink()
    assert "3 of 3 are missing" in open_error(path, must_exist=False)


def test_the_files_of_a_long_list_are_not_looked_up_on_opening(tmp_path: Path) -> None:
    path = _list(tmp_path, *(f"{i}.mp4 {i % 7}" for i in range(10_001)))
    source = open_source(path)
    assert len(source) == 10_001
    assert source[10_000].label == 10_000 % 7


def test_missing_files_and_empty_folders(tmp_path: Path) -> None:
    assert "gone.txt" in open_error(tmp_path / "gone.txt")
    assert "no sub-folders" in open_error(tmp_path)
    touch(tmp_path, "run/a.mp4")
    (tmp_path / "jump").mkdir()
    message = open_error(tmp_path)
    assert "class 'jump' has no videos" in message
    assert "data format cannot be 'csv'" in open_error(tmp_path, kind="csv")
    binary = tmp_path / "video.mp4"
    binary.write_bytes(b"\xff\xfe\xfd" * 100)
    assert "not a text file" in open_error(binary)


def test_label_names_beside_a_list_are_used(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    path = _list(tmp_path, "a.mp4 run", "b.mp4 jump")
    numbers = _list(tmp_path, "a.mp4 2", "b.mp4 0", name="numbers.txt")
    (tmp_path / "label_names.txt").write_text("run\nsit down\njump\n")
    assert open_source(path).label_names == ("run", "sit down", "jump")
    assert _content(open_source(path)) == [("a.mp4", 0), ("b.mp4", 2)]
    assert _content(open_source(numbers)) == [("a.mp4", 2), ("b.mp4", 0)]
    given = open_source(path, label_names=("jump", "run"))
    assert _content(given) == [("a.mp4", 1), ("b.mp4", 0)]
    (tmp_path / "label_names.txt").write_text("run\n")
    assert "class 'jump' is not among the 1 classes" in open_error(path)
    (tmp_path / "label_names.txt").write_bytes(b"\xff\xfe")
    assert "one class name a line" in open_error(path)
