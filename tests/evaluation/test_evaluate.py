import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vswin_jax.evaluation.evaluate import Evaluation, MultiLabelEvaluation, evaluate
from vswin_jax.sharding.mesh import make_mesh, place_batch

NAMES = ("left", "right", "up")


def pixels(videos: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (videos, 2, 1, 2, 2, 3)).astype(np.uint8)


def padded_batches(videos: np.ndarray, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
    """Yield batches whose padded rows have mask 0 and values that must not count."""
    for start in range(0, len(videos), batch_size):
        ids = np.arange(start, start + batch_size)
        real = ids < len(videos)
        rows = np.where(real, ids, 0)
        yield {
            "video": videos[rows],
            "label": (rows % 3).astype(np.int32),
            "mask": real.astype(np.float32),
            "id": np.where(real, ids, -1).astype(np.int32),
            "flip": np.zeros(batch_size, bool),
        }


@jax.jit
def eval_step(params: jax.Array, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Apply a linear model to the mean colour, softmax to each view, and average the views."""
    colours = batch["video"].astype(jnp.float32).mean(axis=(2, 3, 4)) / 32
    probabilities = jax.nn.softmax(colours @ params).mean(axis=1)
    losses = -jnp.log(jnp.take_along_axis(probabilities, batch["label"][:, None], axis=1))
    return {"probabilities": probabilities, "loss": losses[:, 0]}


def run(videos: np.ndarray, batch_size: int, num_examples: int | None = None) -> Evaluation:
    mesh = make_mesh(data=1, devices=jax.devices()[:1])
    return evaluate(
        eval_step,
        jnp.eye(3),
        padded_batches(videos, batch_size),
        num_examples=num_examples or len(videos),
        place=lambda batch: place_batch(batch, mesh),
    )


def test_result_does_not_depend_on_the_batch_size() -> None:
    videos = pixels(13)
    whole = run(videos, 13)
    for batch_size in (1, 4, 5, 32):
        part = run(videos, batch_size)
        np.testing.assert_array_equal(part.labels, np.arange(13) % 3)
        np.testing.assert_allclose(part.probabilities, whole.probabilities, atol=1e-6)
        assert part.top1 == whole.top1
        assert part.loss == pytest.approx(whole.loss, abs=1e-6)


def test_missing_or_repeated_videos_are_an_error() -> None:
    with pytest.raises(RuntimeError, match=r"each of 14 videos once .* got 13 rows of 13"):
        run(pixels(13), 4, num_examples=14)
    with pytest.raises(RuntimeError, match="13 rows of 13"):
        run(pixels(13), 4, num_examples=12)


def worked_example() -> Evaluation:
    probabilities = np.array(
        [[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.1, 0.8, 0.1], [0.5, 0.1, 0.4]], np.float32
    )
    labels = np.array([0, 1, 1, 0])
    losses = -np.log(probabilities[np.arange(4), labels])
    return Evaluation(labels, probabilities, losses)


def test_scores_of_a_worked_example() -> None:
    result = worked_example()
    assert result.top1 == 0.75
    assert result.top5 == 1.0
    assert result.mean_class_accuracy == pytest.approx((1.0 + 0.5) / 2)
    assert result.loss == pytest.approx(-np.log(0.7 * 0.3 * 0.8 * 0.5) / 4)
    np.testing.assert_array_equal(result.confusion, [[2, 0, 0], [1, 1, 0], [0, 0, 0]])


def test_top5_is_a_score_only_of_more_than_five_classes() -> None:
    for classes, expected in ((5, False), (6, True)):
        result = Evaluation(np.array([0]), np.eye(1, classes, dtype=np.float32), np.zeros(1))
        assert ("top5" in result.summary()) == expected
        assert ("top-5" in result.describe()) == expected


def test_save_writes_all_files(tmp_path: Path) -> None:
    videos = ["a.mp4", "b, with comma.mp4", "c.mp4", "d.mp4"]
    worked_example().save(tmp_path / "evaluation", videos, NAMES, extra={"views": "4x3"})
    directory = tmp_path / "evaluation"
    summary = json.loads((directory / "summary.json").read_text())
    assert summary["top1"] == 0.75
    assert summary["videos"] == 4
    assert summary["views"] == "4x3"
    rows = list(csv.DictReader((directory / "predictions.csv").open()))
    assert [row["video"] for row in rows] == videos
    assert (rows[1]["label"], rows[1]["predicted"]) == ("right", "left")
    assert (rows[3]["class_2"], float(rows[3]["probability_2"])) == ("up", pytest.approx(0.4))
    matrix = list(csv.reader((directory / "confusion.csv").open()))
    assert matrix[0][1:] == list(NAMES)
    assert matrix[2] == ["right", "1", "1", "0"]
    assert (directory / "confusion.png").read_bytes().startswith(b"\x89PNG")
    assert not list(directory.glob("*.partial"))


def multi_label_example() -> MultiLabelEvaluation:
    """Rank "left" perfectly and the one video of "right" second of four; "up" has no video."""
    probabilities = np.float32([[0.9, 0.2, 0.1], [0.8, 0.7, 0.1], [0.1, 0.6, 0.1], [0.2, 0.1, 0.3]])
    labels = np.float32([[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 0]])
    return MultiLabelEvaluation(labels, probabilities, np.float32([0.1, 0.2, 0.3, 0.4]))


def test_scores_of_a_multi_label_example() -> None:
    result = multi_label_example()
    np.testing.assert_array_equal(result.average_precisions, [1.0, 0.5, np.nan])
    assert result.summary() == {
        "mAP": 0.75,
        "hit1": 1.0,
        "loss": pytest.approx(0.25),
        "videos": 4,
        "classes": 2,
    }


def test_save_writes_all_multi_label_files(tmp_path: Path) -> None:
    evaluation = multi_label_example()
    evaluation.labels[1, 1] = 1.0
    evaluation.save(tmp_path, ["a.mp4", "b.mp4", "c.mp4", "d.mp4"], NAMES, extra={"step": 3})
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["mAP"], summary["videos"], summary["step"]) == (1.0, 4, 3)
    rows = list(csv.DictReader((tmp_path / "predictions.csv").open()))
    assert [row["labels"] for row in rows] == ["left", "left;right", "right", ""]
    assert (rows[1]["class_2"], rows[1]["probability_2"]) == ("right", "0.700000")
    assert (rows[3]["class_1"], rows[3]["loss"]) == ("up", "0.400000")
    assert list(csv.reader((tmp_path / "average_precision.csv").open())) == [
        ["class", "average_precision", "videos"],
        ["left", "1.000000", "2"],
        ["right", "1.000000", "2"],
        ["up", "", "0"],
    ]
    assert (tmp_path / "average_precision.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "average_precision.csv",
        "average_precision.png",
        "predictions.csv",
        "summary.json",
    ]


def test_multi_label_result_does_not_depend_on_the_batch_size() -> None:
    videos = pixels(7)
    sets = np.random.default_rng(1).integers(0, 2, (7, 3)).astype(np.float32)

    @jax.jit
    def step(params: jax.Array, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        probabilities = eval_step(params, {**batch, "label": jnp.argmax(batch["label"], -1)})
        return {**probabilities, "loss": batch["label"].sum(-1)}

    def with_sets(batch_size: int) -> Iterator[dict[str, np.ndarray]]:
        for batch in padded_batches(videos, batch_size):
            yield {**batch, "label": sets[np.maximum(batch["id"], 0)]}

    mesh = make_mesh(data=1, devices=jax.devices()[:1])
    for batch_size in (3, 7):
        found = evaluate(
            step,
            jnp.eye(3),
            with_sets(batch_size),
            num_examples=7,
            place=lambda batch: place_batch(batch, mesh),
        )
        assert isinstance(found, MultiLabelEvaluation)
        np.testing.assert_array_equal(found.labels, sets)
        np.testing.assert_array_equal(found.losses, sets.sum(1))
