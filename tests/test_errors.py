"""Sentences of errors."""

import pickle

import pytest

from vswin_jax.errors import InputError, join_some, rename_arguments, unknown_name


def test_a_long_list_is_cut() -> None:
    assert join_some(["a", "b", "c"], 3) == "a, b, c"
    assert join_some(["a", "b", "c", "d", "e"], 2) == "a, b and 3 more"


def test_only_the_arguments_that_an_error_names_are_renamed() -> None:
    names = {"size": "config.data.size", "flip": "config.data.flip", "mesh.window": "the axis"}
    sentence = (
        "the clip's resize must equal size, the size of '/flip/size.mp4', "
        "or mesh.window=2 (my.size)"
    )
    with pytest.raises(InputError) as caught, rename_arguments(names):
        raise InputError(sentence, ["size", "resize", "mesh.window"])
    assert str(caught.value) == (
        "the clip's resize must equal config.data.size, the config.data.size of '/flip/size.mp4', "
        "or the axis=2 (my.size)"
    )
    # The names of an outer block do not change those of an inner one.
    outer = {"data": "other", "size": "other", "config": "other"}
    with (
        pytest.raises(InputError, match=r"^config\.data\.size is 3$"),
        rename_arguments(outer),
        rename_arguments(names),
    ):
        raise InputError("size is 3", ["size"])


def test_without_a_config_an_error_names_its_arguments_also_from_another_process() -> None:
    error = unknown_name("model", "swin_tinny", ["swin_tiny"], "name")
    assert str(error) == (
        "Unknown model 'swin_tinny': did you mean 'swin_tiny'? The known values of name are "
        "swin_tiny."
    )
    sent = pickle.loads(pickle.dumps(error))
    names = {"name": "config.model.name"}
    with pytest.raises(InputError, match=r"values of config\.model\.name are"):
        _raise_renamed(sent, names)


def _raise_renamed(error: InputError, names: dict[str, str]) -> None:
    with rename_arguments(names):
        raise error
