"""Changes of settings between a checkpoint and the run that resumes from it."""

import json
from pathlib import Path
from typing import Any

import pytest
from flax.traverse_util import flatten_dict

from vswin_jax.checkpoint import read_metadata
from vswin_jax.config import base_config, flags
from vswin_jax.config.changes import WITHOUT_EFFECT, setting_changes

ROOT = Path(__file__).parents[2]


def saved_config() -> dict[str, Any]:
    """Return the default settings as a checkpoint stores them."""
    return json.loads(json.dumps(base_config().to_dict()))


def test_equal_settings_are_no_change_although_json_has_lists_for_tuples() -> None:
    saved = saved_config()
    assert saved["data"]["scale"] == [0.08, 1.0]
    assert setting_changes(saved, base_config()) == []


@pytest.mark.parametrize(
    ("name", "value", "description"),
    [
        ("train.batch_size", 8, "config.train.batch_size is 8 and was 64"),
        ("train.duration", "40 epochs", "duration is '40 epochs' and was '30 epochs'"),
        ("train.ema_decay", 0.999, "ema_decay is 0.999 and was 0.0"),
        ("optim.learning_rate", 0.5, "config.optim.learning_rate is 0.5 and was 0.001"),
        ("optim.schedule", "cosine", "schedule is 'cosine' and was 'epoch_cosine'"),
        ("optim.warmup", "1 epochs", "warmup is '1 epochs' and was '2.5 epochs'"),
        ("loss.mixup_alpha", 0.8, "mixup_alpha is 0.8 and was 0.0"),
        ("seed", 7, "config.seed is 7 and was 0"),
        ("data.size", 112, "config.data.size is 112 and was 224"),
        ("data.scale", (0.5, 1.0), "scale is [0.5, 1.0] and was [0.08, 1.0]"),
        ("data.aug_repeats", 2, "aug_repeats is 2 and was 1"),
        ("data.class_balance", 0.5, "class_balance is 0.5 and was 0.0"),
        ("data.rand_augment.n", 4, "config.data.rand_augment.n is 4 and was 0"),
        ("model.drop_path_rate", 0.4, "drop_path_rate is 0.4 and was None"),
        ("model.dtype", "float32", "dtype is 'float32' and was 'bfloat16'"),
        ("model.window_size", (8, 7, 7), "window_size is [8, 7, 7] and was None"),
    ],
)
def test_what_changes_the_steps_has_an_effect(name: str, value: Any, description: str) -> None:
    config = base_config()
    config.update_from_flattened_dict({name: value})
    (change,) = setting_changes(saved_config(), config)
    assert change.has_effect
    assert change.description.endswith(description)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("mesh.fsdp", 4), ("mesh.window", 2), ("train.grad_accum_steps", 8)),
        *(("train.log_every", "1 steps"), ("train.checkpoint_every", "9 steps")),
        *(("train.eval_every", "1 epochs"), ("train.max_to_keep", 9), ("eval.num_clips", 10)),
        *(("data.processes", 0), ("data.threads", 3), ("train.compilation_cache", "off")),
        *(("data.root", "/elsewhere"), ("data.train", "/elsewhere/train.csv"), ("name", "other")),
        *(("model.remat", "block"), ("model.attention", "xla"), ("optim.offload", True)),
        *(("init", "scratch"), ("init_from", "/weights.pth")),
    ],
)
def test_what_does_not_change_the_steps_has_none(name: str, value: Any) -> None:
    config = base_config()
    config.update_from_flattened_dict({name: value})
    (change,) = setting_changes(saved_config(), config)
    assert (change.has_effect, change.description.split()[0]) == (False, f"config.{name}")


def test_the_table_names_settings_and_sections_that_exist() -> None:
    names = flatten_dict(base_config().to_dict(), sep=".")
    for known in WITHOUT_EFFECT:
        assert known in names or any(name.startswith(known) for name in names if known[-1] == ".")


def test_a_checkpoint_of_an_older_version_had_the_defaults_and_the_old_names() -> None:
    saved = saved_config()
    del saved["data"]["fps"], saved["mesh"], saved["train"]["grad_accum_steps"]
    saved["train"]["accumulate"] = 4
    config = base_config()
    config.data.fps = 12.5
    fps, accumulation = setting_changes(saved, config)
    assert (fps.description, fps.has_effect) == ("config.data.fps is 12.5 and was 0.0", True)
    assert accumulation.description == "config.train.grad_accum_steps is 1 and was 4"
    assert not accumulation.has_effect


def test_a_saved_run_and_its_own_command_line_agree(tiny_arguments: tuple[str, ...]) -> None:
    """The old run of the tests was saved before many of the present settings existed."""
    old = read_metadata(ROOT / "tests" / "data" / "old_run" / "checkpoints" / "4")["config"]
    own = (
        *("--config.train.duration=6 steps", "--config.train.eval_every=2 steps"),
        *("--config.train.checkpoint_every=2 steps", "--config.data.aug_repeats=2"),
        *("--config.loss.random_erasing=0.25", "--config.train.max_to_keep=2"),
    )
    command = flags.parse([*tiny_arguments, *own, "--workdir=w"])
    assert command is not None
    assert setting_changes(old, command.config) == []
