"""Labels as numbers and as names."""

import shutil
import unicodedata
from pathlib import Path

import pytest

from vswin_jax.data import open_source
from vswin_jax.data.sources.labels import check_same_names, resolve_labels
from vswin_jax.errors import InputError

from .conftest import touch

LISTS = Path(__file__).parent / "lists"
NFC, NFD = (unicodedata.normalize(form, "fünf") for form in ("NFC", "NFD"))
# The order that older versions gave to twelve classes 0.0 to 11.0.
TEXT_ORDER = tuple(sorted(f"{number}.0" for number in range(12)))


def _resolve(*labels: str, names: tuple[str, ...] | None = None) -> list[int]:
    indices, known = resolve_labels(labels, lambda k: f"line {k + 1}", "list", label_names=names)
    assert names is None or known == names
    return indices.tolist()


def _error(*labels: str, names: tuple[str, ...] | None = None) -> str:
    with pytest.raises(InputError) as caught:
        _resolve(*labels, names=names)
    return str(caught.value)


def test_labels_that_pandas_wrote_as_floats_are_numbers(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4")
    shutil.copy(LISTS / "floats10.csv", tmp_path)
    source = open_source(tmp_path / "floats10.csv")
    assert source.labels.tolist() == list(range(12))
    assert source.label_names == tuple(map(str, range(12)))


@pytest.mark.parametrize(
    "labels",
    [
        ("0.0", "1.0", "2.0", "1.0"),
        ("0", "1.", "2.00", "01"),
        ("-0.0", "+1", "2e0", "1"),
        ("0.0\u00a0", "1\u3000", "2.0", "1"),
        ("0.000000000000000000e+00", "1.000000000000000000e+00", "2", "10e-1"),
    ],
)
def test_ways_to_write_whole_numbers(labels: tuple[str, ...]) -> None:
    assert _resolve(*labels) == [0, 1, 2, 1]
    assert _resolve(*labels, names=("x", "y", "z")) == [0, 1, 2, 1]
    assert _resolve(*labels, names=("0", "1", "2")) == [0, 1, 2, 1]


def test_sets_of_numbers_written_as_floats() -> None:
    labels, names = resolve_labels([("0.0", "2.0"), ("1",)], str, "list", multi_label=True)
    assert labels == ((0, 2), (1,))
    assert names == ("0", "1", "2")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (("0", "2.5"), "line 2: expected a whole number or a class name but the label is '2.5'"),
        (("0,0", "1,0"), "line 1: expected a whole number or a class name but the label is '0,0'"),
        (("0", "1e300"), "line 2: expected a whole number"),
        (("0", f"1e{'9' * 30}"), "line 2: expected a whole number"),
        (("0", "9" * 5000), "line 2: expected a whole number"),
        (("0.0", "-1.0"), "line 2: the label must be from 0 to 0 but is -1"),
        (("0.0", "nan", "1.0"), "line 2: expected a label but it reads 'nan'"),
        (("<NA>", "0"), "line 1: expected a label but it reads '<NA>'"),
        (("1", "#N/A", "0"), "line 2: expected a label but it reads '#N/A'"),
        (("0.0", "inf"), "line 2: expected a label but it reads 'inf'"),
    ],
)
def test_numbers_that_are_no_classes(labels: tuple[str, ...], message: str) -> None:
    assert message in _error(*labels)


def test_names_that_look_like_numbers_stay_names() -> None:
    speeds = ("0.5", "1.0", "2.0")
    assert _resolve("2.0", "0.5", names=speeds) == [2, 0]
    assert _resolve("2", "1.0", names=speeds) == [2, 1]
    assert "class '1.5' is not among the 3 classes" in _error("1.5", "1.0", names=speeds)
    assert _resolve("1.0", "1", "1.00", names=("1", "1.0")) == [1, 0, 1]
    assert _resolve("3.0", names=("3", "jump", "run", "swim")) == [0]
    assert _resolve("0.5x", "1.0", "nan") == [0, 1, 2]
    assert _resolve("9.0", "10", names=("10", "9")) == [1, 0]


def test_a_model_that_was_trained_with_labels_in_the_order_of_texts() -> None:
    """Its class 2 is 10.0, whatever the way in which the data has its labels now."""
    for labels in (("10.0", "2.0"), ("10", "2"), ("10", "2.0")):
        assert _resolve(*labels, names=TEXT_ORDER) == [2, 4]
    assert "class '12' is not among the 12 classes" in _error("12", names=TEXT_ORDER)
    # Up to ten classes have the same order.
    check_same_names(("0.0", "1.0"), ("0", "1"), "data")
    with pytest.raises(InputError, match=r"class 2 on, which is '10\.0' in the model and '2'"):
        check_same_names(TEXT_ORDER, tuple(map(str, range(12))), "data")


def test_names_in_two_forms_of_unicode_and_with_white_space_are_equal() -> None:
    labels, names = resolve_labels([NFD, "run", NFC, f" {NFD} "], str, "list")
    assert names == (NFC, "run")
    assert labels.tolist() == [0, 1, 0, 0]
    assert _resolve(NFC, NFD, names=("a", NFD)) == [1, 1]
    check_same_names(["a", NFD], ["a", NFC], "data")
    # A model of an older version may have both.
    assert _resolve(NFC, NFD, names=(NFD, NFC)) == [1, 0]


def test_a_name_of_two_classes_is_refused_where_it_is_used() -> None:
    names = ("crane", "run", "crane")
    assert _resolve("0", "2", names=names) == [0, 2]
    assert _resolve("run", names=names) == [1]
    assert "line 2: expected a name of one class but 2" in _error("run", "crane", names=names)
