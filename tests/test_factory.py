"""Data sets, models and options that a config describes, and label names that must agree."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

from vswin_jax import factory
from vswin_jax.checkpoint import Checkpoints, read_metadata
from vswin_jax.config import base_config
from vswin_jax.config.renames import load_saved_config
from vswin_jax.errors import InputError


def _videos(folder: Path, *classes: str) -> str:
    for name in classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "a.mp4").touch()
    return str(folder)


def _config(**data: Any) -> ConfigDict:
    config = base_config()
    config.data.update(data)
    return config


def test_older_checkpoints_with_a_removed_model_setting_still_build() -> None:
    saved = base_config().to_dict()
    saved["model"]["scan"] = True
    plain = factory.build_model(base_config(), 3)
    assert factory.build_model(load_saved_config(saved), 3) == plain


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("run")
    with Checkpoints(directory / "checkpoints") as checkpoints:
        state = {"params": {"bias": jnp.zeros(2)}}
        checkpoints.save(3, state, {"label_names": ["jump", "run"]})
    return directory


def test_training_resumes_with_the_same_classes_only(workdir: Path, tmp_path: Path) -> None:
    assert read_metadata(workdir)["label_names"] == ["jump", "run"]
    same = _config(train=_videos(tmp_path / "same", "run", "jump"))
    assert factory.open_split(same, workdir, "train").label_names == ("jump", "run")
    other = _config(train=_videos(tmp_path / "other", "run", "swim"))
    assert factory.open_split(other, tmp_path / "new", "train").label_names == ("run", "swim")
    with pytest.raises(InputError, match="class 0 on, which is 'jump' in the model and 'run' in"):
        factory.open_split(other, workdir, "train")


def test_a_run_whose_labels_were_texts_goes_on_with_its_own_names_alone(tmp_path: Path) -> None:
    """Older versions took the labels 0.0 to 10.0 for names, in the order of texts."""
    old = sorted(f"{number}.0" for number in range(11))
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(3, {"params": {"bias": jnp.zeros(11)}}, {"label_names": old})
    (tmp_path / "names.txt").write_text("\n".join(old))
    (tmp_path / "a.mp4").touch()
    path = tmp_path / "train.csv"
    path.write_text("path,label\n" + "".join(f"a.mp4,{number}.0\n" for number in range(11)))
    with pytest.raises(InputError, match=r"class 2 on, which is '10\.0' in the model"):
        factory.open_split(_config(train=str(path)), tmp_path, "train")
    config = _config(train=str(path), label_names=str(tmp_path / "names.txt"))
    source = factory.open_split(config, tmp_path, "train")
    assert source.label_names == tuple(old)
    assert source.labels.tolist() == [0, 1, *range(3, 11), 2]


def test_sampler_options_are_those_of_the_config(tmp_path: Path) -> None:
    config = _config(train=_videos(tmp_path / "set", "go left", "go right", "stop"))
    source = factory.open_split(config, tmp_path, "train")
    plain = {"batch_size": 64, "seed": 0, "class_balance": 0.0, "aug_repeats": 1}
    assert factory.sampler_options(config, source) == plain | {"mirrored_labels": None}
    config.data.update(class_balance=0.5, aug_repeats=2, flip_labels="left_right", fps=12.5)
    options = factory.sampler_options(config, source)
    assert options.pop("mirrored_labels").tolist() == [1, 0, 2]
    assert options == plain | {"class_balance": 0.5, "aug_repeats": 2}
    assert factory.clip_spec(config).fps == 12.5


def test_older_checkpoints_without_a_frame_rate_take_every_frame() -> None:
    saved = _config(num_frames=16).to_dict()
    del saved["data"]["fps"]
    spec = factory.clip_spec(load_saved_config(saved))
    assert spec == factory.clip_spec(_config(num_frames=16))
    assert spec.fps == 0


def test_evaluation_notices_label_names_in_another_order(tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("run\njump\n")
    config = _config(eval=_videos(tmp_path / "eval", "run", "jump"), label_names=str(names))
    source = factory.open_split(config, tmp_path, "eval", ["run", "jump"])
    assert source.labels.tolist() == [1, 0]
    with pytest.raises(InputError, match="'jump' in the model and 'run' in the data"):
        factory.open_split(config, tmp_path, "eval", ["jump", "run"])


def test_a_multi_label_run_resumes_as_one_and_a_single_label_run_too(tmp_path: Path) -> None:
    """A checkpoint whose config has no such setting is single-label."""
    videos = _videos(tmp_path / "set", "run", "jump")
    for name, data in (("single", {}), ("sets", {"multi_label": True})):
        with Checkpoints(tmp_path / name / "checkpoints") as checkpoints:
            metadata = {"label_names": ["jump", "run"], "config": {"data": data}}
            checkpoints.save(3, {"params": {"bias": jnp.zeros(2)}}, metadata)
    single, sets = (_config(train=videos, multi_label=multi) for multi in (False, True))
    assert factory.open_split(single, tmp_path / "single", "train")[0].label == 0
    assert factory.open_split(sets, tmp_path / "sets", "train")[0].label == (0,)
    with pytest.raises(InputError, match="multi_label to be False, as the checkpoint"):
        factory.open_split(sets, tmp_path / "single", "train")
    with pytest.raises(InputError, match="multi_label to be True, as the checkpoint"):
        factory.open_split(single, tmp_path / "sets", "train")


def test_moving_shapes_can_have_one_label_each_in_a_multi_label_run(tmp_path: Path) -> None:
    config = _config(kind="moving_shapes", multi_label=True)
    config.data.shapes.update(train_scenes=1, test_scenes=1, size=32, num_frames=2)
    source = factory.open_split(config, tmp_path, "train")
    assert source.multi_label
    assert [source[index].label for index in range(8)] == [(k,) for k in range(8)]
