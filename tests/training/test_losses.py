import jax.numpy as jnp
import numpy as np

from vswin_jax.training import losses


def test_cross_entropy_of_soft_targets() -> None:
    logits = jnp.asarray([[2.0, 0.0, -1.0], [0.0, 0.0, 0.0]], jnp.bfloat16)
    targets = jnp.asarray([[0.7, 0.2, 0.1], [1 / 3, 1 / 3, 1 / 3]])
    z = np.asarray(logits, np.float64)
    expected = -np.sum(targets * (z - np.log(np.exp(z).sum(1, keepdims=True))), axis=1)
    ours = losses.cross_entropy(logits, targets)
    assert ours.dtype == jnp.float32
    np.testing.assert_allclose(ours, expected, rtol=1e-6)


def test_binary_cross_entropy_is_the_mean_over_the_classes() -> None:
    """Logits 0 and ln 3 are probabilities 1/2 and 3/4."""
    logits = jnp.asarray([[0.0, np.log(3.0)], [0.0, np.log(3.0)], [100.0, -100.0]])
    targets = jnp.asarray([[1.0, 1.0], [0.0, 0.25], [1.0, 1.0]])
    expected = [
        -(np.log(1 / 2) + np.log(3 / 4)) / 2,
        -(np.log(1 / 2) + 0.25 * np.log(3 / 4) + 0.75 * np.log(1 / 4)) / 2,
        (0.0 + 100.0) / 2,
    ]
    ours = losses.binary_cross_entropy(logits, targets)
    np.testing.assert_allclose(ours, expected, rtol=1e-6)
    assert losses.binary_cross_entropy(logits.astype(jnp.bfloat16), targets).dtype == jnp.float32


def test_smoothed_sets_are_those_of_mmaction2() -> None:
    targets = losses.smooth_targets(jnp.asarray([[1.0, 0.0, 1.0, 0.0], [0.0] * 4]), 0.2)
    np.testing.assert_allclose(targets, [[0.85, 0.05, 0.85, 0.05], [0.05] * 4], rtol=1e-6)


def test_smooth_labels_are_those_of_the_reference() -> None:
    targets = losses.smooth_labels(jnp.asarray([2]), 5, 0.1)
    np.testing.assert_allclose(targets, [[0.02, 0.02, 0.92, 0.02, 0.02]], rtol=1e-6)
    np.testing.assert_array_equal(losses.smooth_labels(jnp.asarray([2]), 4), [[0, 0, 1, 0]])
