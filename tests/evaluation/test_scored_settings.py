"""Names of evaluation directories: one for the run's own settings, others for other settings."""

from dataclasses import replace
from pathlib import Path

import pytest

from vswin_jax.config import base_config
from vswin_jax.config.flags import override
from vswin_jax.data.sources.sources import open_source
from vswin_jax.evaluation.evaluated_weights import EvaluatedWeights
from vswin_jax.evaluation.scored_settings import directory_name
from vswin_jax.training.resume_check import DATA, describe_data


def listing(folder: Path, name: str) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).touch()
    (folder / "val.txt").write_text(f"{name} 0\n")
    return str(folder / "val.txt")


@pytest.fixture
def weights(tmp_path: Path) -> EvaluatedWeights:
    source = open_source(listing(tmp_path / "own", "a.mp4"))
    metadata = {"config": base_config().to_dict(), DATA: describe_data(source, source)}
    return EvaluatedWeights(lambda _: None, "w", "latest", step=20, metadata=metadata)


def name(weights: EvaluatedWeights, listed: str, *overrides: str, latest: int = 20) -> str:
    config = override(base_config(), [f"--config.{text}" for text in overrides])
    config.data.eval = listed
    return directory_name(config, weights, latest, open_source(listed))


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ((), "evaluation"),
        (("eval.batch_size=2", "data.processes=3", "mesh.fsdp=2"), "evaluation"),
        (("eval.num_clips=10",), "evaluation-10x3"),
        (("eval.num_crops=1", "data.size=128"), "evaluation-4x1-size-128"),
        (("eval.resize=256",), "evaluation-resize-256"),
        (("model.dtype=float32",), "evaluation-dtype-float32"),
        (("model.window_size=(8,7,7)",), "evaluation-window_size-8x7x7"),
        (("eval.checkpoint=best",), "evaluation"),
    ],
)
def test_names_say_what_differs(
    weights: EvaluatedWeights, tmp_path: Path, overrides: tuple[str, ...], expected: str
) -> None:
    assert name(weights, str(tmp_path / "own" / "val.txt"), *overrides) == expected


def test_another_step_than_the_latest_is_named(weights: EvaluatedWeights, tmp_path: Path) -> None:
    own = str(tmp_path / "own" / "val.txt")
    assert name(weights, own, "eval.checkpoint=best", latest=40) == "evaluation-best"
    # The newest step is damaged, and the one before it is used.
    assert name(weights, own, latest=40) == "evaluation"


def test_the_same_videos_elsewhere_are_the_same_and_others_are_not(
    weights: EvaluatedWeights, tmp_path: Path
) -> None:
    assert name(weights, listing(tmp_path / "moved", "a.mp4")) == "evaluation"
    others = {name(weights, listing(tmp_path / n, n)) for n in ("b.mp4", "c.mp4")}
    assert len(others) == 2
    assert all(other.startswith("evaluation-val-") for other in others)


def test_weights_without_a_run_have_no_own_settings(
    weights: EvaluatedWeights, tmp_path: Path
) -> None:
    of_file = replace(weights, metadata={})
    assert name(of_file, str(tmp_path / "own" / "val.txt"), "eval.num_clips=1") == "evaluation"
