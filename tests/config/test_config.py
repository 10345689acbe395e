from collections.abc import Callable
from typing import Any

import pytest
from ml_collections import ConfigDict

from vswin_jax.config import base_config, parse_argument, runlocal
from vswin_jax.config.rules import check
from vswin_jax.errors import InputError
from vswin_jax.models import OVERRIDES

ALLOWED = {"variant": ("tiny", "base"), "root": None}


def test_argument_defaults() -> None:
    assert parse_argument("", ALLOWED) == {"variant": "tiny", "root": "", "runlocal": False}


def test_argument_values_and_flag() -> None:
    chosen = parse_argument("root=my videos, variant=base,runlocal", ALLOWED)
    assert chosen == {"variant": "base", "root": "my videos", "runlocal": True}


@pytest.mark.parametrize(
    ("argument", "root"),
    [
        ("root=/a,b", "/a,b"),
        ("root=/a, b=c,d ,variant=base", "/a, b=c,d"),
        ("variant=base,root=date=2020,01/local", "date=2020,01/local"),
        ("root=a,,b,", "a,,b,"),
        ("root=~/a,~b", "/home/of/me/a,~b"),
    ],
)
def test_commas_in_a_path(argument: str, root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/of/me")
    for runlocal_part in ("", ",runlocal"):
        chosen = parse_argument(argument + runlocal_part, ALLOWED)
        expected = {"root": root, "runlocal": bool(runlocal_part)}
        assert {name: chosen[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("root=/a,runlocl", ("'runlocl'", "'runlocal'")),
        ("root=/a,varient=base", ("'varient'", "'variant'")),
        ("root=/a,variant", ("variant", "base")),
        ("varient=base", ("varient", "'variant'", "root", "runlocal")),
        ("variant=bose", ("bose", "'base'", "tiny")),
        ("variant", ("variant", "base", "tiny")),
        ("root=", ("root=VALUE",)),
        ("local", ("local", "runlocal")),
    ],
)
def test_wrong_argument_lists_what_exists(argument: str, words: tuple[str, ...]) -> None:
    with pytest.raises(InputError) as caught:
        parse_argument(argument, ALLOWED)
    assert all(word in str(caught.value) for word in words)


def test_base_config_is_locked_and_valid() -> None:
    config = base_config()
    check(config)
    with pytest.raises(AttributeError):
        config.optim.learnin_rate = 1.0


def test_every_override_of_the_model_is_a_setting() -> None:
    assert set(base_config().model) == {*OVERRIDES, "name", "num_classes", "dtype"}


def test_runlocal_keeps_the_recipe() -> None:
    config = base_config()
    config.optim.learning_rate = 0.5
    config.data.sampling = "uniform"
    config.eval.num_crops = 5
    config.model.num_classes = 400
    config.model.drop_path_rate = 0.3
    runlocal(config)
    check(config)
    assert (config.optim.learning_rate, config.data.sampling, config.eval.num_crops) == (
        0.5,
        "uniform",
        5,
    )
    assert config.model.drop_path_rate == 0.3
    assert (config.init, config.data.kind, config.model.num_classes) == (
        "scratch",
        "moving_shapes",
        None,
    )
    assert config.train.batch_size <= 4


def _set(path: str, value: Any) -> Callable[[ConfigDict], None]:
    return lambda config: config.update_from_flattened_dict({path: value})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_set("model.dtype", "float16"), ("model.dtype", "'float16'", "bfloat16")),
        (_set("init", "scrach"), ("init", "'scratch'")),
        (_set("data.size", -224), ("data.size", "1 or more", "-224")),
        (_set("eval.num_crops", 2), ("eval.num_crops", "1, 3 or 5", "2")),
        (_set("train.batch_size", 0), ("train.batch_size", "0")),
        (_set("model.window_size", (8, 7)), ("model.window_size", "(8, 7)")),
        (_set("model.patch_size", (2, 4, -4)), ("model.patch_size",)),
        (_set("model.depths", ("(2,x)",)), ("model.depths", "(2,x)")),
        (_set("data.ratio", ("a", "b")), ("data.ratio",)),
        (_set("data.scale", (1.0, 0.5)), ("data.scale",)),
        (_set("model.drop_path_rate", 1.0), ("model.drop_path_rate", "below 1")),
        (_set("optim.groups", "official"), ("optim.groups", "literal", "intended")),
        (_set("train.grad_accum_steps", 3), ("train.grad_accum_steps", "3", "64")),
        (_set("mesh.fsdp", 0), ("mesh.fsdp", "-1")),
        (_set("data.class_balance", 1.5), ("data.class_balance", "from 0 to 1", "1.5")),
        (_set("data.aug_repeats", 0), ("data.aug_repeats", "1 or more", "0")),
        (_set("data.aug_repeats", 3), ("train.batch_size", "64", "data.aug_repeats (3)")),
        (_set("data.fps", -1.0), ("data.fps", "0 or more", "-1.0")),
    ],
)
def test_check_names_field_and_value(
    change: Callable[[ConfigDict], None], words: tuple[str, ...]
) -> None:
    config = base_config()
    change(config)
    with pytest.raises(InputError) as caught:
        check(config)
    assert all(word in str(caught.value) for word in words)


def test_labels_exchanged_by_flips_that_never_come_are_refused() -> None:
    config = base_config()
    config.data.flip_labels = "left_right"
    check(config)
    config.data.flip = 0.0
    with pytest.raises(
        InputError, match="flip_labels is 'left_right' but no clip is ever mirrored"
    ):
        check(config)
    config.data.rand_augment.n = 4
    check(config)


def test_scratch_with_weights_is_refused() -> None:
    config = base_config()
    config.init = "scratch"
    config.init_from = "weights.npz"
    with pytest.raises(InputError, match="init_from"):
        check(config)
