"""A checkpoint from before the config keys were renamed resumes, predicts and is evaluated."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest

import vswin_jax
from vswin_jax import main
from vswin_jax.checkpoint import load_for_inference
from vswin_jax.config import base_config
from vswin_jax.config.flags import override
from vswin_jax.config.renames import REMOVED, RENAMED, load_saved_config
from vswin_jax.errors import InputError
from vswin_jax.reporting.metrics_file import read_metrics

OLD_RUN = Path(__file__).parents[1] / "data" / "old_run"
# The arguments of the old run, by their present names; its README has the old ones.
OVERRIDES = (
    "--config.train.duration=6 steps",
    "--config.train.eval_every=2 steps",
    "--config.train.checkpoint_every=2 steps",
    "--config.data.aug_repeats=2",
    "--config.loss.random_erasing=0.25",
    "--config.train.max_to_keep=2",
)


@pytest.fixture(scope="module")
def resumed(tiny_arguments: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("old") / "run"
    shutil.copytree(OLD_RUN / "checkpoints", workdir / "checkpoints")
    assert main.run((*tiny_arguments, *OVERRIDES, f"--workdir={workdir}")) == 0
    return workdir


def test_it_resumes_with_the_losses_of_the_old_version(resumed: Path) -> None:
    for kind in ("train", "eval"):
        old = {
            entry["step"]: entry["loss"] for entry in read_metrics(OLD_RUN / "metrics.jsonl", kind)
        }
        new = {
            entry["step"]: entry["loss"] for entry in read_metrics(resumed / "metrics.jsonl", kind)
        }
        assert sorted(new) == sorted(step for step in old if step > 4)
        # The file may come from another kind of CPU, whose last bits may differ.
        np.testing.assert_allclose(list(new.values()), [old[step] for step in new], rtol=1e-5)


def test_its_evaluation_is_that_of_the_old_version(resumed: Path) -> None:
    tables = []
    for path in (OLD_RUN, resumed / "evaluation"):
        with (path / "predictions.csv").open(newline="") as file:
            tables.append({row["video"]: row for row in csv.DictReader(file)})
    old, new = tables
    assert list(old) == list(new)
    for name, row in old.items():
        assert new[name]["predicted"] == row["predicted"]
        assert float(new[name]["loss"]) == pytest.approx(float(row["loss"]), abs=2e-5)


def test_it_predicts_with_no_other_flag(resumed: Path) -> None:
    video = resumed / "moving_shapes" / "test" / "grow" / "scene_00000.mp4"
    (prediction,) = vswin_jax.predict(video, OLD_RUN / "checkpoints" / "4", topk=8)
    assert sum(prediction.probabilities) == pytest.approx(1, abs=1e-5)
    assert prediction.frames.shape == (4, 16, 16, 3)
    # Two more steps at a small learning rate move them little.
    (after,) = vswin_jax.predict(video, resumed / "checkpoints" / "6", topk=8)
    probabilities = dict(zip(prediction.labels, prediction.probabilities, strict=True))
    for label, probability in zip(after.labels, after.probabilities, strict=True):
        assert probabilities[label] == pytest.approx(probability, abs=2e-3)


def test_its_config_has_the_new_names_and_every_field() -> None:
    saved = load_for_inference(OLD_RUN / "checkpoints" / "4")[1]["config"]
    saved["model"]["scan"] = None
    config = load_saved_config(saved)
    assert (config.data.aug_repeats, config.loss.random_erasing) == (2, 0.25)
    assert (config.train.grad_accum_steps, config.train.max_to_keep) == (2, 2)
    assert (config.eval.num_clips, config.eval.num_crops) == (1, 1)
    assert tuple(config.data.scale) == tuple(config.data.ratio) == (1.0, 1.0)
    sections = {name: set(value) for name, value in config.items() if hasattr(value, "keys")}
    expected = {name: set(value) for name, value in base_config().items() if hasattr(value, "keys")}
    assert sections == expected


@pytest.mark.parametrize("old", RENAMED)
def test_the_command_line_refuses_an_old_name_and_gives_the_new_one(old: str) -> None:
    with pytest.raises(InputError, match=rf"config\.{old} is now called config\.{RENAMED[old]}:"):
        override(base_config(), [f"--config.{old}=1"])


def test_the_table_leads_to_fields_that_exist() -> None:
    config = base_config()
    for path in RENAMED.values():
        section, name = path.split(".")
        assert name in config[section]
    for path in (*RENAMED, *REMOVED):
        section, name = path.split(".")
        assert name not in config[section]
