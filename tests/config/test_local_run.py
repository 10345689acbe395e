"""`runlocal`: the model and the schedule shrink, and the videos that are named stay."""

from pathlib import Path

import pytest

from vswin_jax.config import flags
from vswin_jax.config.rules import check
from vswin_jax.errors import InputError

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
NAMED = ["--config.data.train=my/train", "--config.data.eval", "my/val.txt"]
WEIGHTS = "--config.init_from=swin_tiny_patch244_window877_kinetics400_1k"


def parse(experiment: str, *arguments: str) -> flags.CommandLine:
    command = flags.parse([f"--config={EXPERIMENTS / experiment}", "--workdir=w", *arguments])
    assert command is not None
    check(command.config)
    return command


@pytest.mark.parametrize("name", [path.stem for path in sorted(EXPERIMENTS.glob("*.py"))])
def test_videos_named_after_the_experiment_are_used(name: str) -> None:
    more = ["--config.data.root=~/videos", "--config.data.label_names=names.txt"]
    for argument in (":runlocal", ""):
        data = parse(f"{name}.py{argument}", *NAMED, *more).config.data
        assert (data.kind, data.train, data.eval) == ("files", "my/train", "my/val.txt")
        assert (data.root, data.label_names) == (str(Path("~/videos").expanduser()), "names.txt")
    local = parse(f"{name}.py:runlocal", *NAMED).config
    assert (local.train.duration, local.model.embed_dim, local.data.size) == ("4 steps", 8, 32)


def test_the_folder_of_the_experiment_is_used(tmp_path: Path) -> None:
    data = parse(f"finetune_folder.py:root={tmp_path},runlocal").config.data
    assert (data.kind, data.train) == ("files", str(tmp_path / "train"))
    assert parse("finetune_folder.py:runlocal").config.data.kind == "moving_shapes"


def test_videos_beside_moving_shapes_are_refused() -> None:
    with pytest.raises(InputError, match=r"writes itself, but config\.data\.train names others"):
        parse("k400.py:runlocal", *NAMED, "--config.data.kind=moving_shapes")


def test_weights_of_the_full_model_are_left_out_and_a_line_says_so() -> None:
    command = parse("k400.py:runlocal", WEIGHTS, *NAMED)
    assert (command.config.init, command.config.init_from) == ("scratch", "")
    (note,) = command.notes
    assert note.startswith("runlocal trains a small model from random weights, and those of")
    assert WEIGHTS in note
    kept = parse("k400.py:runlocal", "--config.init=pretrained", "--config.init_from=runs/small")
    assert (kept.config.init, kept.config.init_from, kept.notes) == ("pretrained", "runs/small", ())
    whole = parse("k400.py", WEIGHTS)
    assert (whole.config.init, whole.notes) == ("pretrained", ())
    assert whole.config.init_from == WEIGHTS.partition("=")[2]
