"""Selection and reordering of the classes of a head."""

import numpy as np
import pytest

from vswin_jax.errors import InputError
from vswin_jax.weights import select_classes
from vswin_jax.weights.layouts.classifier import known_class_names

KERNEL = np.arange(8.0).reshape(4, 2)
BIAS = np.arange(4.0)
NAMES = ("archery", "bowling", "juggling balls", "yoga")


def test_rows_have_the_order_of_the_names() -> None:
    kernel, bias = select_classes(KERNEL, BIAS, NAMES, ("yoga", "bowling"))
    np.testing.assert_array_equal(kernel, [[6, 7], [2, 3]])
    np.testing.assert_array_equal(bias, [3, 1])


def test_unknown_names_are_listed_with_similar_ones() -> None:
    with pytest.raises(
        InputError, match=r"has no class 'bowlin' \(near: 'bowling'\), 'swimming': correct"
    ):
        select_classes(KERNEL, BIAS, NAMES, ("bowlin", "archery", "swimming"))
    with pytest.raises(InputError, match="'c4' and 3 more: correct"):
        select_classes(KERNEL, BIAS, NAMES, [f"c{i}" for i in range(8)])


@pytest.mark.parametrize(
    ("old", "came"),
    [(NAMES[:3], "3 came"), ((*NAMES[:3], "bowling"), "3 of them different"), ((), "0 came")],
)
def test_old_names_must_name_each_row_once(old: tuple[str, ...], came: str) -> None:
    with pytest.raises(InputError, match=f"each of the head's 4 classes but .*{came}"):
        select_classes(KERNEL, BIAS, old, ("archery",))


def test_a_repeated_class_is_an_error() -> None:
    with pytest.raises(InputError, match="has 'yoga' more than once"):
        select_classes(KERNEL, BIAS, NAMES, ("yoga", "archery", "yoga"))


def test_names_in_two_forms_of_unicode_are_one_class() -> None:
    old = ("fu\u0308nf", "run")
    kernel, _ = select_classes(KERNEL[:2], BIAS[:2], old, ("run", "f\u00fcnf"))
    np.testing.assert_array_equal(kernel, [[2, 3], [0, 1]])


def test_kinetics_names_are_known() -> None:
    names = known_class_names(400)
    assert names is not None
    assert len(set(names)) == 400
    assert names[0] == "abseiling"
    assert known_class_names(399) is None
