import jax.numpy as jnp
import numpy as np
import pytest

from vswin_jax import metrics

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


def test_means_divide_by_the_count_and_keep_the_rest() -> None:
    sums = {"loss_sum": 3.0, "top1_correct": 1.0, "count": 2.0, "learning_rate": 0.5}
    assert metrics.means(sums) == {"loss": 1.5, "top1": 0.5, "learning_rate": 0.5}
    assert metrics.means({"loss_sum": 0.0, "top1_correct": 0.0, "count": 0.0})["loss"] == 0.0


@pytest.mark.parametrize(("k", "accuracy"), [(1, 0.4), (2, 0.8), (3, 1.0), (5, 1.0)])
def test_top_k_accuracy(k: int, accuracy: float) -> None:
    assert metrics.top_k_accuracy(PROBABILITIES, LABELS, k) == pytest.approx(accuracy)


def test_probabilities_that_are_not_numbers_are_never_right() -> None:
    nothing = np.full((2, 3), np.nan, np.float32)
    assert metrics.top_k_accuracy(nothing, np.asarray([0, 1]), 3) == 0.0


def test_confusion_matrix_has_true_classes_as_rows() -> None:
    confusion = metrics.confusion_matrix(PROBABILITIES.argmax(1), LABELS, 3)
    np.testing.assert_array_equal(confusion, [[2, 0, 1], [1, 0, 0], [0, 1, 0]])


def test_mean_class_accuracy_leaves_out_classes_without_videos() -> None:
    confusion = np.asarray([[3, 1, 0], [0, 0, 0], [1, 0, 1]])
    assert metrics.mean_class_accuracy(confusion) == pytest.approx((0.75 + 0.5) / 2)
    assert metrics.mean_class_accuracy(np.zeros((2, 2), int)) == 0.0


def test_scores_of_an_empty_set_are_zero() -> None:
    assert metrics.top_k_accuracy(np.zeros((0, 3)), np.zeros(0, int), 1) == 0.0
