import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vswin_jax.training import batch_augmentations

CLIPS = (4, 2, 8, 10, 3)


def random_clips(shape: tuple[int, ...] = CLIPS) -> jax.Array:
    return jax.random.normal(jax.random.key(7), shape) + 3.0


def one_hot(rows: int = 4, classes: int = 5) -> jax.Array:
    return jnp.eye(classes)[jnp.arange(rows)]


def test_mixup_blends_clips_and_labels_by_one_lambda() -> None:
    clips, targets = random_clips(), one_hot()
    mixed, labels = jax.jit(batch_augmentations.mixup, static_argnums=3)(
        jax.random.key(1), clips, targets, 0.8, jnp.ones(4)
    )
    share = float(labels[0, 0])
    assert 0.01 < share < 0.99
    np.testing.assert_allclose(
        labels, share * targets + (1 - share) * np.roll(targets, 1, 0), atol=1e-6
    )
    np.testing.assert_allclose(
        mixed, share * clips + (1 - share) * np.roll(clips, 1, 0), rtol=1e-5, atol=1e-5
    )


def test_mixup_draws_lambda_from_a_beta_distribution() -> None:
    def share(key: jax.Array) -> jax.Array:
        targets = one_hot(2, 2)
        return batch_augmentations.mixup(
            key, jnp.zeros((2, 1, 1, 1, 3)), targets, 0.2, jnp.ones(2)
        )[1][0, 0]

    shares = np.asarray(jax.vmap(share)(jax.random.split(jax.random.key(0), 4000)))
    assert shares.mean() == pytest.approx(0.5, abs=0.03)
    # The variance of Beta(a, a) is 1 / (4 (2a + 1)).
    assert shares.var() == pytest.approx(1 / (4 * 1.4), rel=0.05)


def test_cutmix_pastes_one_box_and_weights_labels_by_its_visible_area() -> None:
    box_sizes = set()
    for seed in range(20):
        clips, targets = random_clips(), one_hot()
        mixed, labels = batch_augmentations.cutmix(
            jax.random.key(seed), clips, targets, 1.0, jnp.ones(4)
        )
        own, partner = np.asarray(clips), np.roll(clips, 1, 0)
        pasted = (np.asarray(mixed) == partner) & (np.asarray(mixed) != own)
        assert ((np.asarray(mixed) == own) | pasted).all()
        box = pasted[0, 0, :, :, 0]
        assert (pasted == box[:, :, None]).all(), "the box differs between clips or frames"
        rows, columns = box.any(1), box.any(0)
        assert (box == np.outer(rows, columns)).all(), "not a box"
        np.testing.assert_allclose(
            labels[1], (1 - box.mean()) * targets[1] + box.mean() * targets[0], atol=1e-6
        )
        box_sizes.add(int(box.sum()))
    assert len(box_sizes) > 5


@pytest.mark.parametrize("alphas", [(0.8, 0.0), (0.0, 1.0)])
def test_a_clip_is_not_mixed_with_padding(alphas: tuple[float, float]) -> None:
    clips, targets = random_clips(), one_hot()
    mask = jnp.asarray([1.0, 1.0, 1.0, 0.0])
    mixed, labels = batch_augmentations.mix(
        jax.random.key(3), clips, targets, mask, mixup_alpha=alphas[0], cutmix_alpha=alphas[1]
    )
    np.testing.assert_array_equal(mixed[0], clips[0])
    np.testing.assert_array_equal(labels[0], targets[0])
    assert not np.array_equal(mixed[1], clips[1])


@pytest.mark.long
def test_mix_applies_mixup_or_cutmix_at_even_odds() -> None:
    clips, targets = random_clips((2, 1, 8, 8, 3)), one_hot(2)

    def is_cutmix(key: jax.Array) -> jax.Array:
        mixed, _ = batch_augmentations.mix(
            key, clips, targets, jnp.ones(2), mixup_alpha=1.0, cutmix_alpha=1.0
        )
        return jnp.all((mixed == clips) | (mixed == jnp.roll(clips, 1, 0)))

    chosen = jax.vmap(is_cutmix)(jax.random.split(jax.random.key(0), 400))
    assert float(jnp.mean(chosen)) == pytest.approx(0.5, abs=0.1)


def test_mix_without_an_alpha_changes_nothing() -> None:
    clips, targets = random_clips(), one_hot()
    mixed, labels = batch_augmentations.mix(jax.random.key(0), clips, targets, jnp.ones(4))
    np.testing.assert_array_equal(mixed, clips)
    np.testing.assert_array_equal(labels, targets)


def test_random_erasing_zeroes_one_box_per_clip() -> None:
    clips = random_clips((400, 2, 20, 30, 3))
    erased = np.asarray(jax.jit(batch_augmentations.random_erasing)(jax.random.key(0), clips))
    is_zero = erased == 0
    assert (is_zero | (erased == np.asarray(clips))).all()
    assert (is_zero == is_zero[:, :1, :, :, :1]).all(), "the box differs between frames"
    boxes = is_zero[:, 0, :, :, 0]
    assert boxes.any((1, 2)).mean() == pytest.approx(0.25, abs=0.07)
    boxes = boxes[boxes.any((1, 2))]
    assert len({box.tobytes() for box in boxes}) > 50
    for box in boxes:
        rows, columns = box.any(1), box.any(0)
        assert (box == np.outer(rows, columns)).all(), "not a box"
        assert 0.01 < box.mean() < 0.37
        assert 0.2 < rows.sum() / columns.sum() < 4.2
    assert boxes.mean() == pytest.approx((0.02 + 1 / 3) / 2, abs=0.04)


@pytest.mark.parametrize(("probability", "share"), [(0.0, 0.0), (1.0, 1.0)])
def test_the_probability_of_erasing(probability: float, share: float) -> None:
    clips = random_clips((20, 1, 16, 16, 3))
    erased = batch_augmentations.random_erasing(jax.random.key(0), clips, probability)
    assert np.mean((np.asarray(erased) == 0).any((1, 2, 3, 4))) == share
