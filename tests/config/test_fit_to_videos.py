import re
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from vswin_jax.config import flags, rules
from vswin_jax.config.fit_to_videos import choose, fit_to_videos
from vswin_jax.training.durations import TrainingDurations

EXPERIMENT = Path(__file__).parents[2] / "experiments" / "finetune_folder.py"


def folder_of(root: Path, videos: int) -> Path:
    for split in ("train", "val"):
        for name in ("jump", "run"):
            (root / split / name).mkdir(parents=True)
        for index in range(videos):
            (root / split / ("jump", "run")[index % 2] / f"{index}.mp4").touch()
    return root


def parse(root: Path, *overrides: str) -> tuple[ConfigDict, tuple[str, ...]]:
    arguments = [f"--config={EXPERIMENT}:root={root}", f"--workdir={root}/run", *overrides]
    command = flags.parse(arguments)
    assert command is not None
    return command.config, command.notes


@pytest.mark.parametrize(
    ("videos", "batch", "steps", "log_every", "evaluations"),
    [
        (1, 1, 50, 1, 10),
        (4, 4, 50, 1, 10),
        (28, 4, 203, 4, 10),
        (100, 16, 200, 4, 11),
        (400, 16, 300, 6, 6),
        (20000, 16, 15000, 20, 6),
    ],
)
def test_sensible_schedules_for_any_number_of_videos(
    videos: int, batch: int, steps: int, log_every: float, evaluations: int
) -> None:
    config = flags.load(str(EXPERIMENT))
    chosen = choose(config, videos)
    for name, value in chosen.items():
        section, _, key = name.partition(".")
        config[section][key] = value
    rules.check(config)
    durations = TrainingDurations.from_config(config, videos)
    assert (config.train.batch_size, durations.total_steps) == (batch, steps)
    assert durations.log_every == log_every
    due = [step for step in range(1, steps + 1) if durations.is_due(step, durations.eval_every)]
    assert len(due) == evaluations
    assert durations.warmup_steps == pytest.approx(steps / 12, rel=0.1)


def test_one_line_says_what_was_chosen_and_the_command_line_comes_first(tmp_path: Path) -> None:
    root = folder_of(tmp_path, 28)
    config, (note,) = parse(root)
    assert note.startswith("chosen for 28 training videos: train.batch_size=4, ")
    assert '--config.train.batch_size="4"' in note
    assert (config.train.batch_size, config.train.duration) == (4, "29 epochs")
    config, (note,) = parse(root, "--config.train.batch_size=8", "--config.train.duration=6 epochs")
    assert (config.train.batch_size, config.train.duration) == (8, "6 epochs")
    assert (config.train.grad_accum_steps, config.train.eval_every) == (2, "2 epochs")
    assert config.optim.warmup == "0.5 epochs"
    assert not re.search("train.(batch_size|duration)=", note)
    config, _ = parse(root, "--config.train.grad_accum_steps=8")
    assert config.train.batch_size == 8


def test_lists_are_counted_and_missing_data_is_left_to_the_run(tmp_path: Path) -> None:
    root = folder_of(tmp_path, 12)
    (root / "train.txt").write_text("".join(f"train/run/{n}.mp4 run\n" for n in range(1, 12, 2)))
    overrides = [f"--config.data.train={root}/train.txt", f"--config.data.eval={root}/train.txt"]
    arguments = [f"--config={EXPERIMENT}", f"--workdir={root}/run", *overrides]
    command = flags.parse(arguments)
    assert command is not None
    assert command.notes[0].startswith("chosen for 6 training videos: ")
    config, notes = parse(tmp_path / "missing")
    assert (notes, config.train.batch_size) == ((), 16)


def test_a_run_that_resumes_keeps_what_was_chosen(tmp_path: Path) -> None:
    first, _ = parse(folder_of(tmp_path / "few", 28))
    more, _ = parse(folder_of(tmp_path / "more", 400))
    again = more.copy_and_resolve_references()
    assert fit_to_videos(again, [], first.to_dict()) == ()
    assert again.train.to_dict() == first.train.to_dict()
    again = more.copy_and_resolve_references()
    fit_to_videos(again, ["--config.train.batch_size=16"], first.to_dict())
    assert (again.train.batch_size, again.train.duration) == (16, first.train.duration)
