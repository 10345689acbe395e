"""What is wrong in an experiment file of a user's own is said in a sentence."""

from pathlib import Path

import pytest

from vswin_jax.config.experiment_file import run_experiment
from vswin_jax.errors import InputError

START = """
from vswin_jax.config import base_config
def get_config(argument):
    config = base_config()
"""


def run(tmp_path: Path, *lines: str, start: str = START) -> object:
    path = tmp_path / "mine.py"
    path.write_text(start + "".join(f"    {line}\n" for line in lines))
    return run_experiment(str(path), "an argument")


def test_the_config_is_returned(tmp_path: Path) -> None:
    config = run(tmp_path, "config.name = argument", "return config")
    assert config.name == "an argument"


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("config.train.lr = 1", "the config has no 'lr' there: did you mean config.optim.learning"),
        ("config.epochs = 3", "no 'epochs' there: did you mean config.train.duration?"),
        ("return config.data.sise", "no 'sise' there: did you mean config.data.shapes.size or"),
        ("config.update({'trian': {'seed': 1}})", "no 'trian' there: did you mean"),
        ("config.zzzz = 3", "the config has no 'zzzz' there."),
        ("config.data.size = 'big'", "'size' of the config is of type int but 'big' came"),
        ("config.loss = 3", "'loss' of the config is of type section of settings but '3' came"),
    ],
)
def test_a_setting_that_does_not_exist_or_has_another_type(
    tmp_path: Path, line: str, sentence: str
) -> None:
    with pytest.raises(InputError) as caught:
        run(tmp_path, line, "return config")
    assert str(caught.value).startswith(f"{tmp_path / 'mine.py'}, line 5: ")
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("start", "sentence"),
    [
        (START, r"to return a config but NoneType came: end it with `return config`\."),
        ("def get_config(:\n", r"mine\.py, line 1: this is not Python \(invalid syntax\)"),
        ("x = 1\n", r"Expected '.*mine\.py' to define get_config\(argument\) but it does not"),
        ("def get_config():\n    pass\n", r"to define get_config\(argument\) but it does not"),
    ],
)
def test_a_file_that_is_no_experiment(tmp_path: Path, start: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        run(tmp_path, start=start)


def test_a_defect_of_the_own_code_keeps_its_traceback(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="unsupported operand"):
        run(tmp_path, "return config.seed + 'x'")
