from pathlib import Path

import pytest

from vswin_jax.data import ClipSpec, open_source, train_clip
from vswin_jax.data.clips.mirrored_labels import describe_pairs, mirrored_labels
from vswin_jax.data.moving_shapes.moving_shapes import CLASSES, write_moving_shapes
from vswin_jax.data.pipeline.pipeline import train_batches
from vswin_jax.data.pipeline.sampler import example_rng
from vswin_jax.errors import InputError

SSV2 = (
    "Pushing something from right to left",
    "Folding something",
    "Pulling something from left to right",
    "Pushing something from left to right",
    "Turning the camera left while filming something",
    "Pulling something from right to left",
)


def test_mirrored_classes_of_ssv2() -> None:
    partner = mirrored_labels("left_right", SSV2)
    assert partner.tolist() == [3, 1, 5, 0, 4, 2]
    assert partner.dtype == "int32"
    assert describe_pairs(partner, SSV2) == (
        "mirrored clips exchange the labels of 2 pairs of classes; 1 that name a side have no "
        "partner and keep their labels: 'Turning the camera left while filming something'"
    )


@pytest.mark.parametrize(
    ("name", "mirrored"),
    [
        ("move_left", "move_right"),
        ("Left", "Right"),
        ("TURN LEFT, then right", "TURN RIGHT, then left"),
        ("left-hand2", "right-hand2"),
        ("gauche/left", "gauche/right"),
    ],
)
def test_exchanged_words_keep_their_case(name: str, mirrored: str) -> None:
    assert mirrored_labels("left_right", [mirrored, "x", name]).tolist() == [2, 1, 0]
    assert describe_pairs(mirrored_labels("left_right", [name, mirrored]), [name, mirrored]) == (
        "mirrored clips exchange the labels of 1 pair of classes"
    )


@pytest.mark.parametrize(
    "names",
    [
        ("leftover", "rightover"),
        ("bright", "bleft"),
        ("go Left", "go right"),
        ("lEft", "Right"),
        ("éleft", "éright"),
        ("left and left", "right and left"),
    ],
)
def test_names_that_are_no_pair(names: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match=r"'left_right' but no two of the 2 classes differ in"):
        mirrored_labels("left_right", names)


def test_moving_shapes_have_one_pair_by_name_and_two_in_a_file(tmp_path: Path) -> None:
    by_name = mirrored_labels("left_right", CLASSES)
    assert {CLASSES[k] for k in range(8) if by_name[k] != k} == {"move_left", "move_right"}
    path = tmp_path / "pairs.txt"
    path.write_text(
        "\ufeffmove_left\tmove_right\n\n rotate_clockwise \trotate_counterclockwise\n",
        encoding="utf-8",
    )
    listed = mirrored_labels(str(path), CLASSES)
    assert {(CLASSES[k], CLASSES[listed[k]]) for k in range(8) if k < listed[k]} == {
        ("move_left", "move_right"),
        ("rotate_clockwise", "rotate_counterclockwise"),
    }
    assert (listed[listed] == range(8)).all()
    # The map depends on the order of the classes.
    assert mirrored_labels(str(path), CLASSES[::-1]).tolist() == (7 - listed[::-1]).tolist()


def test_listed_pairs_in_another_form_of_unicode_and_with_separators(tmp_path: Path) -> None:
    path = tmp_path / "pairs.txt"
    path.write_bytes("zurück\tvo\u2028r\r\n".encode("utf-16"))
    names = ("vo\u2028r", "stop", "zuru\u0308ck")
    assert mirrored_labels(str(path), names).tolist() == [2, 1, 0]


def test_a_flipped_move_left_is_labelled_move_right(tmp_path: Path) -> None:
    write_moving_shapes(tmp_path / "set", train_scenes=4, test_scenes=1, size=32, num_frames=4)
    source = open_source(tmp_path / "set" / "train")
    spec = ClipSpec(num_frames=4, frame_interval=1, resize=32, size=32, rand_augment_n=1)
    partner = mirrored_labels("left_right", source.label_names)
    settings = {"batch_size": 32, "seed": 0, "mirrored_labels": partner}
    batch = next(train_batches(source, spec, **settings))
    seen = set()
    for index, label in zip(batch["id"].tolist(), batch["label"].tolist(), strict=True):
        name = source.label_names[source.labels[index]]
        clip = train_clip(source[index], spec, example_rng(0, 0, index))
        if name in ("move_left", "move_right"):
            seen.add((name, clip.mirrored, source.label_names[label]))
        else:
            assert source.label_names[label] == name
    assert seen == {
        ("move_left", True, "move_right"),
        ("move_left", False, "move_left"),
        ("move_right", True, "move_left"),
        ("move_right", False, "move_right"),
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a\tb\nc d\n", ("pairs.txt', line 2", "a tab between them", "'c d'")),
        ("a\tb\tc\n", ("line 1", "two classes")),
        ("a\ta\n", ("line 1", "two classes")),
        ("\n\na\tx\n", ("line 3", "'x' is not one of the 4 classes", "label_names.txt")),
        ("a\tb\nd\tb\n", ("line 2", "'b' has a partner already, on line 1")),
        ("\n", ("flip_labels", "empty")),
        (None, ("'left_right' or a text file", "is neither")),
    ],
)
def test_files_that_cannot_be_used(
    text: str | None, words: tuple[str, ...], tmp_path: Path
) -> None:
    path = tmp_path / "pairs.txt"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError) as caught:
        mirrored_labels(str(path), ["a", "b", "c", "d"])
    assert [word for word in words if word not in str(caught.value)] == []
