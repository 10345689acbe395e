import jax.numpy as jnp
import numpy as np
import pytest

from vswin_jax.training import metrics

PROBABILITIES = np.asarray(
    [[0.5, 0.3, 0.2], [0.2, 0.5, 0.3], [0.1, 0.2, 0.7], [0.6, 0.3, 0.1], [0.4, 0.4, 0.2]],
    np.float32,
)
LABELS = np.asarray([0, 2, 0, 0, 1])


def test_batch_sums_count_only_real_rows() -> None:
    sums = metrics.batch_sums(
        jnp.asarray([1.0, 2.0, np.nan]),
        jnp.asarray([[0.0, 1.0], [0.0, 1.0], [0.0, 1.0]]),
        jnp.asarray([1, 0, 1]),
        jnp.asarray([1.0, 1.0, 0.0]),
    )
    assert {k: float(v) for k, v in sums.items()} == {
        "loss_sum": 3.0,
        "top1_correct": 1.0,
        "count": 2.0,
    }


def test_multi_label_sums_count_hits() -> None:
    """Score a hit, a miss, a video without classes (no hit is possible) and a padded row."""
    sums = metrics.multi_label_batch_sums(
        jnp.asarray([1.0, 2.0, 4.0, np.nan]),
        jnp.asarray([[0.0, 3.0, 1.0], [0.0, 3.0, 1.0], [0.0, 3.0, 1.0], [0.0, 3.0, 1.0]]),
        jnp.asarray([[1.0, 1.0, 0.0], [1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 1.0, 0.0]]),
        jnp.asarray([1.0, 1.0, 1.0, 0.0]),
    )
    assert {k: float(v) for k, v in sums.items()} == {
        "loss_sum": 7.0,
        "hit1_correct": 1.0,
        "hit1_count": 2.0,
        "count": 3.0,
    }
    assert metrics.means({**sums, "learning_rate": 0.5}) == {
        "loss": pytest.approx(7 / 3),
        "hit1": 0.5,
        "learning_rate": 0.5,
    }


def test_means_divide_by_the_count_and_keep_the_rest() -> None:
    sums = {"loss_sum": 3.0, "top1_correct": 1.0, "count": 2.0, "learning_rate": 0.5}
    assert metrics.means(sums) == {"loss": 1.5, "top1": 0.5, "learning_rate": 0.5}
    assert metrics.means({"loss_sum": 0.0, "top1_correct": 0.0, "count": 0.0})["loss"] == 0.0


@pytest.mark.parametrize(("k", "accuracy"), [(1, 0.4), (2, 0.8), (3, 1.0), (5, 1.0)])
def test_top_k_accuracy(k: int, accuracy: float) -> None:
    assert metrics.top_k_accuracy(PROBABILITIES, LABELS, k) == pytest.approx(accuracy)


def test_nan_probabilities_are_never_correct() -> None:
    undefined = np.full((2, 3), np.nan, np.float32)
    assert metrics.top_k_accuracy(undefined, np.asarray([0, 1]), 3) == 0.0


def test_confusion_matrix_has_true_classes_as_rows() -> None:
    confusion = metrics.confusion_matrix(PROBABILITIES.argmax(1), LABELS, 3)
    np.testing.assert_array_equal(confusion, [[2, 0, 1], [1, 0, 0], [0, 1, 0]])


def test_mean_class_accuracy_leaves_out_classes_without_videos() -> None:
    confusion = np.asarray([[3, 1, 0], [0, 0, 0], [1, 0, 1]])
    assert metrics.mean_class_accuracy(confusion) == pytest.approx((0.75 + 0.5) / 2)
    assert metrics.mean_class_accuracy(np.zeros((2, 2), int)) == 0.0


def test_scores_of_an_empty_set_are_zero() -> None:
    assert metrics.top_k_accuracy(np.zeros((0, 3)), np.zeros(0, int), 1) == 0.0


@pytest.mark.parametrize(
    ("scores", "labels", "expected"),
    [
        # Ranks 1 and 3 are correct: precisions 1/1 and 2/3, each for half of the positives.
        ([0.9, 0.8, 0.7, 0.1], [1, 0, 1, 0], (1 + 2 / 3) / 2),
        # Two share the first rank and one of them is correct: 1 of 2, and 2 of 3 with the next.
        ([0.9, 0.9, 0.7, 0.1], [1, 0, 1, 0], (1 / 2 + 2 / 3) / 2),
        ([0.9, 0.9, 0.7, 0.1], [0, 1, 1, 0], (1 / 2 + 2 / 3) / 2),
        # All equal: one threshold, whose precision is the share of positives.
        ([0.5, 0.5, 0.5, 0.5], [0, 1, 0, 0], 1 / 4),
        # Ranks 1, 2 and 5 of 5.
        ([0.1, 0.9, 0.3, 0.8, 0.2], [1, 1, 0, 1, 0], (1 + 1 + 3 / 5) / 3),
        # NaN ranks last and adds no positive.
        ([np.nan, 0.2, 0.9], [1, 1, 0], (1 / 2) / 2),
    ],
)
def test_average_precision_of_worked_examples(
    scores: list[float], labels: list[int], expected: float
) -> None:
    ours = metrics.average_precision(np.float32(scores), np.float32(labels))
    assert ours == pytest.approx(expected, rel=1e-12)


def test_average_precision_does_not_depend_on_the_order_of_the_videos() -> None:
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(0, 20, 200) / 20, rng.integers(0, 2, 200)
    order = rng.permutation(200)
    shuffled = metrics.average_precision(scores[order], labels[order])
    assert metrics.average_precision(scores, labels) == shuffled


def test_classes_that_do_not_occur_have_no_average_precision() -> None:
    probabilities = np.float32([[0.9, 0.2, 0.3], [0.1, 0.8, 0.4]])
    labels = np.float32([[1, 0, 1], [0, 0, 0]])
    found = metrics.average_precisions(probabilities, labels)
    np.testing.assert_array_equal(found, [1.0, np.nan, 0.5])
    assert metrics.mean_over_present(found) == 0.75
    assert metrics.mean_over_present(np.full(3, np.nan)) == 0.0


def test_hit_at_1_leaves_out_videos_without_classes() -> None:
    probabilities = np.float32([[0.9, 0.2], [0.1, 0.8], [0.6, 0.6], [0.3, 0.4], [np.nan, 0.1]])
    labels = np.float32([[1, 1], [1, 0], [1, 0], [0, 0], [1, 0]])
    assert metrics.hit_at_1(probabilities, labels) == 0.5
    assert metrics.hit_at_1(probabilities[3:4], labels[3:4]) == 0.0
