"""The config of a command is that of the workdir's checkpoint, or that of an experiment file."""

from pathlib import Path

import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

from vswin_jax.checkpoint import Checkpoints
from vswin_jax.config import base_config
from vswin_jax.config.flags import CommandLine, parse
from vswin_jax.errors import InputError

FILE = """
from vswin_jax.config import base_config

def get_config(argument):
    config = base_config()
    config.data.update(size=112, resize=128, num_frames=16)
    return config
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    (tmp_path / "experiment.py").write_text(FILE)
    return f"--config={tmp_path / 'experiment.py'}"


def save(workdir: Path, configs: dict[int, ConfigDict | None]) -> str:
    """Save a step for each config; the lower the step, the better its score."""
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        for step, config in configs.items():
            metadata = {"config": config.to_dict()} if config else {}
            checkpoints.save(step, {"params": {"bias": jnp.zeros(2)}}, metadata, score=1 / step)
    return f"--workdir={workdir}"


def trained(**data: int) -> ConfigDict:
    config = base_config()
    config.model.update(window_size=(8, 4, 4), depths=(1, 1), num_heads=(1, 2))
    config.data.update(size=64, resize=72, num_frames=8, **data)
    return config


def parsed(*arguments: str) -> CommandLine:
    command = parse(list(arguments))
    assert command is not None
    return command


@pytest.mark.parametrize("mode", ["train", "evaluate", "dry_run"])
def test_a_workdir_with_a_checkpoint_needs_no_file(tmp_path: Path, mode: str) -> None:
    workdir = save(tmp_path / "run", {3: trained()})
    command = parsed(workdir, f"--mode={mode}", "--config.model.embed_dim=12")
    assert command.config.model.embed_dim == 12
    assert command.run_config["data"]["size"] == 64
    assert command.notes == ()
    # The types are those of a config, not those of JSON.
    assert command.config.model.window_size == (8, 4, 4)
    command.config.model.embed_dim = base_config().model.embed_dim
    assert command.config == trained()


def test_an_evaluation_ignores_the_values_of_a_file_and_says_so(tmp_path: Path, file: str) -> None:
    workdir = save(tmp_path / "run", {3: trained()})
    command = parsed(workdir, file, "--mode=evaluate", "--config.data.num_frames=4")
    assert (command.config.data.size, command.config.data.num_frames) == (64, 4)
    (note,) = command.notes
    assert "differs from it in 5 settings, which are ignored" in note
    assert "config.data.size=112 (64)" in note
    assert "num_frames" not in note


def test_training_takes_the_file_that_is_named(tmp_path: Path, file: str) -> None:
    workdir = save(tmp_path / "run", {3: trained()})
    command = parsed(workdir, file)
    assert (command.config.data.size, command.notes) == (112, ())
    assert command.run_config is None


def test_the_best_checkpoint_is_evaluated_with_its_own_settings(tmp_path: Path) -> None:
    configs = {3: trained(frame_interval=1), 4: trained(frame_interval=4)}
    workdir = save(tmp_path / "run", configs)
    best = "--config.eval.checkpoint=best"
    assert parsed(workdir, "--mode=evaluate").config.data.frame_interval == 4
    assert parsed(workdir, "--mode=evaluate", best).config.data.frame_interval == 1
    # A run resumes from its latest checkpoint.
    assert parsed(workdir, best).config.data.frame_interval == 4


def test_without_a_config_in_the_checkpoint_a_file_is_needed(tmp_path: Path, file: str) -> None:
    workdir = save(tmp_path / "run", {3: None})
    for mode in ("train", "evaluate", "dry_run"):
        with pytest.raises(InputError, match=r"Expected --config FILE, since .* has no checkpoint"):
            parse([workdir, f"--mode={mode}"])
    assert parsed(workdir, file, "--mode=evaluate").config.data.size == 112
