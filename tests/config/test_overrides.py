"""`--config.KEY=VALUE`: values that are understood, and sentences for those that are not."""

from typing import Any

import pytest

from vswin_jax.config import base_config, flags
from vswin_jax.config.setting_values import get_value
from vswin_jax.errors import InputError


def error_of(*arguments: str) -> str:
    with pytest.raises(InputError) as caught:
        flags.override(base_config(), arguments)
    return str(caught.value)


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        *(("train.batch_size", text, 8) for text in ("8", "8.0", "'8'", ' "8" ', "+8", "0.8e1")),
        *(("train.batch_size", text, 1000) for text in ("1e3", "1_000", "1000.0")),
        *(("data.processes", text, -1) for text in ("-1", "-1.0")),
        *(("optim.learning_rate", text, 3e-4) for text in ("3e-4", "0.0003", "'3e-4'", ".0003")),
        *(("data.multi_label", text, True) for text in ("true", "True", "1", "yes", "on")),
        *(("model.qkv_bias", text, False) for text in ("false", "False", "0", "no", "off")),
        *(
            ("model.depths", text, (2, 2, 6, 2))
            for text in ("2,2,6,2", "(2,2,6,2)", "[2, 2, 6, 2]", "2 2 6 2", "2x2x6x2", "2,2,6,2,")
        ),
        *(("data.scale", text, (0.5, 1)) for text in ("0.5,1", "(.5,1.0)", "5e-1;1")),
        ("model.depths", "2", (2,)),
        *(("model.window_size", text, None) for text in ("None", "none", "null")),
        ("model.remat", "None", None),
        ("model.remat", "none", "none"),
        ("name", "a=b", "a=b"),
        ("train.duration", "30 epochs", "30 epochs"),
    ],
)
def test_values_as_people_write_them(key: str, text: str, value: Any) -> None:
    for arguments in ([f"--config.{key}={text}"], [f"--config.{key}", text]):
        found = get_value(flags.override(base_config(), arguments), key)
        assert found == value
        assert type(found) is type(value)


def test_the_last_value_counts_and_the_config_is_locked() -> None:
    config = flags.override(base_config(), ["--config.seed=1", "--config.seed=2"])
    assert config.seed == 2
    assert config.is_locked


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        *(
            (f"train.batch_size={text}", f"a whole number, such as {{}}=64, but '{text}' came.")
            for text in ("[8]", "8.5", "abc", "", "8,16", "inf", "nan", "None")
        ),
        ("optim.learning_rate=1/3", "a number, such as {}=0.001, but '1/3' came."),
        ("data.multi_label=maybe", "true or false, such as {}=false, but 'maybe' came."),
        ("model.num_classes=many", "a whole number, such as {}=400, but 'many' came."),
        ("model.depths=2,,2", "values with commas between them, such as {}=2,2,6,2, but"),
    ],
)
def test_another_type_gets_an_example(argument: str, sentence: str) -> None:
    key = argument.partition("=")[0]
    expected = f"Expected config.{key} to be {sentence.format(f'--config.{key}')}"
    assert error_of(f"--config.{argument}").startswith(expected)


def test_a_value_that_is_missing_gets_an_example() -> None:
    assert error_of("--config.train.duration") == (
        "Expected --config.train.duration=VALUE, such as --config.train.duration='30 epochs', but "
        "no value came."
    )


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        *((key, ["optim.learning_rate"]) for key in ("train.lr", "lr", "optim.lr", "base_lr")),
        *((key, ["optim.learning_rate"]) for key in ("learning_rate", "optim.learningrate")),
        ("batch_size", ["train.batch_size", "eval.batch_size"]),
        ("eval.batchsize", ["eval.batch_size"]),
        ("per_device_train_batch_size", ["train.batch_size"]),
        ("model.dropout", ["model.head_dropout_rate", "model.drop_rate"]),
        ("model.stochastic-depth-prob", ["model.drop_path_rate"]),
        *((key, ["data.num_frames"]) for key in ("data.frames", "clip_len", "data.num_segments")),
        ("optim.wd", ["optim.weight_decay"]),
        *((key, ["model.num_classes"]) for key in ("num_classes", "data.num_classes")),
        ("optim.betas", ["optim.b1", "optim.b2"]),
        ("data.num_workers", ["data.processes"]),
        ("model.img_size", ["data.size"]),
        ("pretrained", ["init_from"]),
        ("train.gradient_accumulation_steps", ["train.grad_accum_steps"]),
        ("loss.mixup", ["loss.mixup_alpha"]),
        ("Train.Batch-Size", ["train.batch_size"]),
        ("train.log_evry", ["train.log_every"]),
        ("data.val", ["data.eval"]),
        ("sed", ["seed"]),
    ],
)
def test_a_wrong_key_suggests_settings_of_the_whole_config(key: str, meant: list[str]) -> None:
    hint = " or ".join(map(repr, meant))
    assert error_of(f"--config.{key}=1").startswith(
        f"Unknown config key {key!r}: did you mean {hint}? The "
    )


def test_a_number_of_epochs_is_a_duration() -> None:
    assert "did you mean 'train.duration' (such as '30 epochs' or" in error_of("--config.epochs=3")


def test_a_key_like_no_other_gets_the_sections() -> None:
    assert error_of("--config.zzz=1").startswith("Unknown config key 'zzz': The known ones are ")
    assert "The settings of config.loss are loss.cutmix_alpha, " in error_of("--config.loss.zz=1")


def test_a_section_lists_its_settings() -> None:
    assert error_of("--config.train=list.txt").startswith(
        "config.train is a section of settings: did you mean 'data.train'? Give one of them as "
        "--config.train.NAME=VALUE: autotune, batch_size, "
    )
    assert "VALUE: m, n." in error_of("--config.data.rand_augment=4")


@pytest.mark.parametrize(
    ("argument", "meant"),
    [
        *(("--workidr=x", "--workdir"), ("--work_dir=x", "--workdir"), ("--output_dir=x", "--w")),
        *(("-c", "--config or --coordinator"), ("-w", "--workdir"), ("--eval", "--mode=evaluate")),
        ("--lr=1", "--config.optim.learning_rate=VALUE? (settings of the config begin with"),
        ("--batch_size=8", "--config.train.batch_size=VALUE or --config.eval.batch_size=VALUE"),
        ("--data.train=x", "--config.data.train=VALUE"),
        ("config.seed=1", "--config.seed=VALUE"),
    ],
)
def test_a_wrong_flag_suggests_a_flag_or_a_setting(argument: str, meant: str) -> None:
    assert error_of(argument).startswith(f"Unknown argument {argument!r}: did you mean {meant}")


def test_a_stray_word_is_named_also_before_other_flags() -> None:
    arguments = ["--config=experiments/k400.py", "--config.train.duration", "3", "epochs"]
    with pytest.raises(InputError, match="Expected flags but the word 'epochs' came: put a value"):
        flags.parse([*arguments, "--workdir=w"])
    assert "did you mean --config my/recipe.py:a=b?" in error_of("my/recipe.py:a=b")


def test_a_flag_after_a_value_of_its_own_argument_is_read() -> None:
    command = flags.parse(["--config=experiments/k400.py", "--config.seed", "3", "--workdir", "w"])
    assert command is not None
    assert (command.config.seed, command.workdir) == (3, "w")


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("k400", "'k400' does not exist: give the path of an experiment, such as experiments/k400"),
        ("experiments/k40.py", "such as experiments/k400.py."),
        ("experiments/k400.py:base", "Unknown argument of --config 'base': write variant=base."),
        ("experiments/k400.py:root=x", "as --config.data.train=PATH and --config.data.eval=PATH"),
    ],
)
def test_a_wrong_experiment_or_argument(path: str, sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        flags.load(path)
    assert sentence in str(caught.value)
