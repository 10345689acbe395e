"""The step that a path stands for: the latest, the best if asked for, or the one that is named."""

import json
from pathlib import Path

import jax.numpy as jnp
import pytest

from vswin_jax.checkpoint import Checkpoints, choose_step, load_step, read_metadata
from vswin_jax.errors import InputError


def save(directory: Path, scores: dict[int, float | None]) -> Path:
    with Checkpoints(directory / "checkpoints", max_to_keep=9) as checkpoints:
        for step, score in scores.items():
            checkpoints.save(step, {"params": {"bias": jnp.full(2, step)}}, {"own": step}, score)
    return directory


def test_a_run_stands_for_its_latest_step_and_the_best_is_named(tmp_path: Path) -> None:
    run = save(tmp_path, {10: 0.5, 20: 0.75, 30: None, 40: 0.625})
    for path in (run, run / "checkpoints"):
        latest = choose_step(path)
        assert (latest.step, latest.reason) == (40, "latest")
        assert latest.note == "quick score 0.625; the best by quick score is step 20 (0.75)"
        best = choose_step(path, "best")
        assert (best.step, best.reason) == (20, "best by quick score")
        assert best.note == "quick score 0.75; the latest is step 40"
        assert [read_metadata(path, which)["own"] for which in ("latest", "best")] == [40, 20]
    assert load_step(best)[0]["bias"].tolist() == [20, 20]
    assert best.describe() == (
        f"the checkpoint of step 20 in '{run}/checkpoints' "
        f"(best by quick score: quick score 0.75; the latest is step 40)"
    )
    named = choose_step(run / "checkpoints" / "30")
    assert (named.step, named.reason, named.note) == (30, "named", "")


def test_one_step_is_both(tmp_path: Path) -> None:
    run = save(tmp_path, {1: 0.25, 2: 0.5})
    assert choose_step(run).note == choose_step(run, "best").note == "quick score 0.5"


def test_without_scores_the_best_is_the_latest(tmp_path: Path) -> None:
    run = save(tmp_path, {1: None, 2: None})
    assert choose_step(run).note == ""
    best = choose_step(run, "best")
    assert (best.step, best.reason) == (2, "latest, since no step has a quick score")


def test_a_damaged_other_step_is_not_the_best(tmp_path: Path) -> None:
    run = save(tmp_path, {1: 0.5, 2: 0.25})
    (run / "checkpoints/1/metrics/metrics").write_text(json.dumps({"score": 0.9}))
    assert choose_step(run).note == "quick score 0.25"
    with pytest.raises(InputError, match="step 1 is damaged"):
        choose_step(run, "best")


def test_an_unknown_choice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'newest'.*latest"):
        choose_step(tmp_path, "newest")
