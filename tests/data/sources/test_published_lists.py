"""Lists as Kinetics, Something-Something v2, UCF101, HMDB51 and Moments in Time publish them."""

import json
import logging
from pathlib import Path

import pytest

from vswin_jax.data import open_source
from vswin_jax.data.sources.labels import check_same_names
from vswin_jax.data.sources.published import detect_kind
from vswin_jax.data.sources.sources import VideoSource
from vswin_jax.errors import InputError

from .conftest import open_error, touch

KINETICS = (
    "label,youtube_id,time_start,time_end,split,is_cc",
    "zumba,-3B32lodo2M,59,69,train,0",
    '"air drumming",_dbcJuKJQNs,7,17,train,0',
    "massaging person's head,x_1-y_2,0,10,train,1",
)
LABELS = {"Holding something": "1", "Covering something with something": "0", "Zipping": "2"}
UCF_CLASSES = ("1 ApplyEyeMakeup", "2 YoYo")


def _write(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _content(source: VideoSource) -> list[tuple[str, str]]:
    """Return (path, class name) of every example, all of which must be existing files."""
    examples = [source[i] for i in range(len(source))]
    assert all(Path(example.video).is_file() for example in examples)
    return [(example.name, source.label_names[example.label]) for example in examples]


@pytest.mark.parametrize("kind", ["auto", "kinetics"])
def test_kinetics_in_class_folders_or_flat(tmp_path: Path, kind: str) -> None:
    path = _write(tmp_path / "lists/train.csv", *KINETICS)
    names = [
        "zumba/-3B32lodo2M_000059_000069.mp4",
        "train/air_drumming/_dbcJuKJQNs_000007_000017.mkv",
        "x_1-y_2_000000_000010.mp4",
    ]
    # The last file is another second of the same video and must not be taken.
    touch(tmp_path / "videos", *names, "zumba/-3B32lodo2M_000060_000070.mp4")
    source = open_source(path, root=tmp_path / "videos", kind=kind)
    labels = ["zumba", "air drumming", "massaging person's head"]
    assert _content(source) == list(zip(names, labels, strict=True))
    assert source.label_names == ("air drumming", "massaging person's head", "zumba")


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_kinetics_list_that_a_program_of_tables_saved(tmp_path: Path, delimiter: str) -> None:
    header, row, *_ = KINETICS
    rows = [header, row.replace(",59,69,", ",59.0,69.0,")]
    assert rows[1] != row
    path = _write(tmp_path / "train.csv", *(line.replace(",", delimiter) for line in rows))
    touch(tmp_path, "-3B32lodo2M_000059_000069.mp4")
    assert _content(open_source(path)) == [("-3B32lodo2M_000059_000069.mp4", "zumba")]


def test_missing_videos_keep_their_class_and_are_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = _write(tmp_path / "train.csv", *KINETICS)
    touch(tmp_path, "x_1-y_2_000000_000010.mp4")
    with caplog.at_level(logging.WARNING, "vswin_jax"):
        source = open_source(path)
    assert source.label_names == ("air drumming", "massaging person's head", "zumba")
    assert source.labels.tolist() == [1]
    (record,) = caplog.records
    assert "2 of the 3 videos" in record.getMessage()
    assert "'zumba/-3B32lodo2M_000059_000069.mp4'" in record.getMessage()
    assert "'air drumming/_dbcJuKJQNs_000007_000017.mp4'" in record.getMessage()


def test_a_complete_list_logs_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = _write(tmp_path / "train.csv", *KINETICS[:2])
    touch(tmp_path, "-3B32lodo2M_000059_000069.mp4")
    open_source(path)
    assert not caplog.records


def test_a_list_without_any_existing_video_is_refused(tmp_path: Path) -> None:
    path = _write(tmp_path / "train.csv", *KINETICS)
    message = open_error(path)
    assert "None of the 3 videos" in message
    assert "-3B32lodo2M_000059_000069.mp4" in message
    assert "is not a folder" in open_error(path, root=tmp_path / "gone")


@pytest.mark.parametrize("folder", ["air drumming", "air_drumming"])
def test_of_several_copies_the_one_in_the_folder_of_its_class_is_taken(
    tmp_path: Path, folder: str
) -> None:
    path = _write(tmp_path / "train.csv", KINETICS[0], KINETICS[2])
    name = "_dbcJuKJQNs_000007_000017.mp4"
    touch(tmp_path, f"abseiling/{name}", f"{folder}/{name}", f"zumba/{name}")
    assert _content(open_source(path)) == [(f"{folder}/{name}", "air drumming")]


def test_a_subset_of_kinetics_uses_the_classes_of_the_whole(tmp_path: Path) -> None:
    path = _write(tmp_path / "val.csv", *KINETICS[:2])
    touch(tmp_path, "-3B32lodo2M_000059_000069.mp4")
    assert open_source(path, label_names=["yoga", "zumba"]).labels.tolist() == [1]
    assert "class 'zumba' is not among" in open_error(path, label_names=["yoga", "swim"])
    assert "has 2: set the number" in open_error(path, label_names=["yoga", "zumba"], num_classes=3)


@pytest.fixture
def ssv2(tmp_path: Path) -> Path:
    records = [
        {
            "id": "78687",
            "label": "holding potato next to vicks vaporub bottle",
            "template": "Holding [something]",
            "placeholders": ["potato"],
        },
        {"id": "42326", "template": "Covering [something] with [something]", "placeholders": []},
    ]
    _write(tmp_path / "labels/labels.json", json.dumps(LABELS))
    touch(tmp_path / "videos", "78687.webm", "42326.webm", "7.webm")
    return _write(tmp_path / "labels/train.json", json.dumps(records, indent=1))


@pytest.mark.parametrize("kind", ["auto", "ssv2"])
def test_something_something(ssv2: Path, tmp_path: Path, kind: str) -> None:
    source = open_source(ssv2, root=tmp_path / "videos", kind=kind)
    assert source.label_names == tuple(sorted(LABELS, key=LABELS.__getitem__))
    assert _content(source) == [
        ("78687.webm", "Holding something"),
        ("42326.webm", "Covering something with something"),
    ]
    answers = _write(tmp_path / "labels/test-answers.csv", "7;Zipping", "9;Holding something")
    test = open_source(answers, root=tmp_path / "videos", kind=kind, num_classes=3)
    assert _content(test) == [("7.webm", "Zipping")]


def test_the_published_order_is_compared_with_that_of_the_model(ssv2: Path, tmp_path: Path) -> None:
    root = tmp_path / "videos"
    names = open_source(ssv2, root=root).label_names
    assert open_source(ssv2, root=root, label_names=names).label_names == names
    message = open_error(ssv2, root=root, label_names=sorted(names, reverse=True))
    assert "class 0" in message
    assert "'Zipping' in the model and 'Covering something with something' in the data" in message
    (ssv2.parent / "labels.json").unlink()
    assert "'labels.json' beside" in open_error(ssv2, root=root)
    assert open_source(ssv2, root=root, label_names=names).labels.tolist() == [1, 0]


@pytest.mark.parametrize("kind", ["auto", "ucf101"])
def test_ucf101(tmp_path: Path, kind: str) -> None:
    lists, videos = tmp_path / "ucfTrainTestlist", tmp_path / "UCF-101"
    _write(lists / "classInd.txt", *UCF_CLASSES)
    train = _write(
        lists / "trainlist01.txt",
        "YoYo/v_YoYo_g08_c01.avi 2",
        "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1",
    )
    test = _write(lists / "testlist01.txt", "YoYo/v_YoYo_g01_c01.avi", "")
    shown = ["YoYo/v_YoYo_g08_c01.avi", "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi"]
    touch(videos, *shown, "YoYo/v_YoYo_g01_c01.avi")
    source = open_source(train, root=videos, kind=kind)
    assert source.label_names == ("ApplyEyeMakeup", "YoYo")
    assert _content(source) == list(zip(shown, ["YoYo", "ApplyEyeMakeup"], strict=True))
    held_out = open_source(test, root=videos, kind=kind, label_names=source.label_names)
    assert _content(held_out) == [("YoYo/v_YoYo_g01_c01.avi", "YoYo")]
    _write(train, "YoYo/v_YoYo_g08_c01.avi 1")
    assert "line 1: expected the number 2" in open_error(train, root=videos, kind=kind)


def test_other_lists_of_ucf101_are_plain_lists(tmp_path: Path) -> None:
    touch(tmp_path, "YoYo/v_YoYo_g08_c01.avi")
    path = _write(tmp_path / "ucf101_train_split_1_videos.txt", "YoYo/v_YoYo_g08_c01.avi 0")
    assert detect_kind(str(path)) is None
    assert open_source(path).label_names == ("0",)


@pytest.fixture
def hmdb(tmp_path: Path) -> Path:
    folder = tmp_path / "splits"
    _write(folder / "climb_test_split1.txt", "a_climb_#1.avi 1 ", "b_climb.avi 2 ", "c.avi 0 ")
    _write(folder / "climb_stairs_test_split1.txt", "d_stairs.avi 1 ", "e_stairs.avi 1 ")
    _write(folder / "climb_test_split2.txt", "a_climb_#1.avi 2 ")
    touch(tmp_path / "hmdb", "climb/a_climb_#1.avi", "climb/b_climb.avi", "climb/c.avi")
    touch(tmp_path / "hmdb", "climb_stairs/d_stairs.avi", "climb_stairs/e_stairs.avi")
    return folder


@pytest.mark.parametrize("kind", ["auto", "hmdb51"])
def test_hmdb51(hmdb: Path, kind: str) -> None:
    root = hmdb.parent / "hmdb"
    train = open_source(f"{hmdb}:train1", root=root, kind=kind)
    # Sorted by class names. File names would put climb_stairs_test before climb_test.
    assert train.label_names == ("climb", "climb_stairs")
    assert [name for name, _ in _content(train)] == [
        "climb/a_climb_#1.avi",
        "climb_stairs/d_stairs.avi",
        "climb_stairs/e_stairs.avi",
    ]
    assert train.labels.tolist() == [0, 1, 1]
    # Without a root, videos are looked up in the parent folder of the splits.
    test = open_source(f"{hmdb}:test1", kind=kind, label_names=train.label_names)
    assert _content(test) == [("hmdb/climb/b_climb.avi", "climb")]
    second = open_source(f"{hmdb}:test2", root=root, kind=kind)
    assert _content(second) == [("climb/a_climb_#1.avi", "climb")]


def test_hmdb51_needs_the_name_of_a_subset(hmdb: Path) -> None:
    assert "add :train1 or :test1" in open_error(hmdb)
    assert "_test_split3.txt" in open_error(f"{hmdb}:train3")
    assert "no annotation file or folder" in open_error(f"{hmdb}:train7")
    _write(hmdb / "climb_test_split1.txt", "a_climb_#1.avi 3")
    assert "climb_test_split1.txt', line 1" in open_error(f"{hmdb}:train1")


@pytest.mark.parametrize("kind", ["auto", "mit"])
def test_moments_in_time(tmp_path: Path, kind: str) -> None:
    _write(tmp_path / "moments_categories.txt", "clapping,0", "adult+female+singing,1")
    path = _write(
        tmp_path / "trainingSet.csv",
        "adult+female+singing/yt-a_1.mp4,adult+female+singing,3,1",
        "clapping/yt-a_1.mp4,clapping,4,0",
    )
    touch(tmp_path / "training", "clapping/yt-a_1.mp4", "adult+female+singing/yt-a_1.mp4")
    source = open_source(path, root=tmp_path / "training", kind=kind)
    assert source.label_names == ("clapping", "adult+female+singing")
    # Two classes have a file of this name: each line finds the one of its class.
    assert [name for name, _ in _content(source)] == [
        "adult+female+singing/yt-a_1.mp4",
        "clapping/yt-a_1.mp4",
    ]
    assert source.labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("name", "lines", "kind", "message"),
    [
        ("a.csv", ["youtube_id,time_start,time_end,split", "x,1,2,test"], "auto", "'label'"),
        ("a.csv", [KINETICS[0], "zumba,x,1,two,train,0"], "auto", "line 2: expected"),
        ("a.csv", [KINETICS[0], "zumba,x,1"], "auto", "line 2: expected"),
        ("a.csv", [KINETICS[0], f"zumba,x,1,{'9' * 5000},train"], "auto", "line 2: expected"),
        ("a.csv", [*KINETICS, "zumba,x,1,2,val,0"], "auto", "'train', 'val'"),
        ("a.csv", KINETICS[:1], "auto", "lists no videos"),
        ("a.json", ['[{"id": "7"}]'], "ssv2", "line 1: expected an object"),
        ("a.json", [json.dumps(LABELS)], "ssv2", "it is an object"),
        ("a.csv", ["7;Zipping", "Zipping"], "auto", "line 2: expected `id;class`"),
        ("trainlist01.txt", ["YoYo/v_a.avi 1", "v_a.avi 1"], "auto", "line 2: expected `Class"),
        ("a.csv", ["a/b.mp4,a,1,0", "a/b.mp4"], "auto", "line 2: expected `class/file"),
        ("a.csv", ["a/b.mp4,a,1,0"], "auto", "'moments_categories.txt' beside"),
        ("a.csv", ["a/b.mp4,0"], "auto", "must open with a header"),
        ("a.txt", ["a.mp4 0"], "hmdb51", "add :train1"),
        ("a.txt", ["a.mp4 0"], "kinetics400", "Unknown data format 'kinetics400'"),
    ],
)
def test_malformed_lists(
    tmp_path: Path, name: str, lines: list[str], kind: str, message: str
) -> None:
    touch(tmp_path, "b.mp4", "x_000001_000002.mp4")
    assert message in open_error(_write(tmp_path / name, *lines), kind=kind)


@pytest.mark.parametrize("last", ["2 YoYo", "YoYo 1", f"{'9' * 5000} YoYo"])
def test_class_files_that_are_not_the_published_ones(tmp_path: Path, last: str) -> None:
    _write(tmp_path / "classInd.txt", "3 ApplyEyeMakeup", last)
    message = open_error(_write(tmp_path / "trainlist01.txt", "YoYo/v_YoYo_g08_c01.avi 1"))
    assert "classInd.txt" in message


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (["run", "swim", "jump"], "class 1 on, which is 'jump' in the model and 'swim' in the"),
        (
            ["run", "jump"],
            "has 2 that differ from class 2 on, which is 'swim' in the model and abs",
        ),
        (["run", "jump", "swim", "fly"], "which is absent in the model and 'fly' in the data"),
    ],
)
def test_the_first_class_that_differs_is_named(data: list[str], message: str) -> None:
    check_same_names(["run", "jump", "swim"], ("run", "jump", "swim"), "data")
    with pytest.raises(InputError, match=message):
        check_same_names(["run", "jump", "swim"], data, "data")
