"""The videos and classes that a dry run plans for."""

from pathlib import Path

import pytest
from ml_collections import ConfigDict

from vswin_jax.analysis.dry_run.dataset_size import dataset_size
from vswin_jax.config import base_config
from vswin_jax.errors import InputError


def config_of(name: str, **data: str) -> ConfigDict:
    config = base_config()
    config.name = name
    config.data.update(data)
    return config


def write_list(path: Path, labels: str) -> str:
    """Write a list of one video for each label, and the videos, as empty files."""
    for index in range(len(labels)):
        (path.parent / f"{path.stem}{index}.mp4").touch()
    lines = (f"{path.stem}{index}.mp4 {label}" for index, label in enumerate(labels))
    path.write_text("\n".join(lines))
    return str(path)


def test_data_that_is_here_is_counted(tmp_path: Path) -> None:
    train = write_list(tmp_path / "train.txt", "0012")
    held_out = write_list(tmp_path / "val.txt", "012")
    found = dataset_size(config_of("mine", train=train, eval=held_out))
    assert (found.classes, found.training, found.held_out) == (3, 4, 3)
    assert found.assumed == ()
    assert repr(train) in found.origin
    assert dataset_size(config_of("mine", train=train)).held_out is None
    (tmp_path / "names.txt").write_text("run\njump\nswim\nfall\n")
    named = config_of("mine", train=train, label_names=str(tmp_path / "names.txt"))
    assert dataset_size(named).classes == 4


@pytest.mark.parametrize(
    ("name", "numbers", "title"),
    [
        ("k400_swin_tiny_224_1k", (400, 240_000, 20_000), "Kinetics-400"),
        ("k600_swin_base_22k", (600, 370_000, 28_300), "Kinetics-600"),
        ("ssv2_swin_base", (174, 168_900, 24_700), "Something-Something v2"),
    ],
)
def test_the_published_numbers_stand_in_for_data_that_is_elsewhere(
    name: str, numbers: tuple[int, int, int], title: str
) -> None:
    found = dataset_size(config_of(name, train="elsewhere/train.txt"))
    assert (found.classes, found.training, found.held_out) == numbers
    assert title in found.origin
    assert "'elsewhere/train.txt' is not on this machine" in found.assumed[-1]
    assert "config.data.train is unset" in dataset_size(config_of(name)).assumed[-1]


def test_moving_shapes_need_not_be_written() -> None:
    # Eight videos a scene; 300 scenes for training and 40 held out.
    found = dataset_size(config_of("quickstart", kind="moving_shapes"))
    assert (found.classes, found.training, found.held_out) == (8, 2400, 320)


def test_data_that_is_here_but_broken_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("")
    with pytest.raises(InputError, match=r"train\.txt"):
        dataset_size(config_of("k400", train=str(tmp_path / "train.txt")))
