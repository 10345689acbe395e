from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vswin_jax.config import base_config
from vswin_jax.config.changes import setting_changes
from vswin_jax.errors import InputError
from vswin_jax.factory import train_spec
from vswin_jax.training.batch_registry import (
    BATCH_AUGMENTATIONS,
    build_batch_augmentations,
    register_batch_augmentation,
)
from vswin_jax.training.step_inputs import StepInputs, prepare_inputs

RNG = np.random.default_rng(0)
BATCH = {
    "video": RNG.integers(0, 256, (4, 1, 2, 8, 8, 3), np.uint8),
    "flip": np.array([True, False, True, False]),
    "label": np.arange(4, dtype=np.int32),
    "mask": np.ones(4, np.float32),
}


def brighten(
    key: jax.Array, clips: jax.Array, targets: jax.Array, mask: jax.Array, most: float = 1.0
) -> tuple[jax.Array, jax.Array]:
    added = jax.random.uniform(key, (len(clips), 1, 1, 1, 1), maxval=most)
    return clips + added, targets


def same(
    key: jax.Array, clips: jax.Array, targets: jax.Array, mask: jax.Array
) -> tuple[jax.Array, jax.Array]:
    return clips, targets


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    register_batch_augmentation("brighten")(brighten)
    register_batch_augmentation("same")(same)
    yield
    BATCH_AUGMENTATIONS.remove("brighten")
    BATCH_AUGMENTATIONS.remove("same")


def prepare(text: object, **options: float) -> StepInputs:
    settings = {"mixup_alpha": 0.0, "cutmix_alpha": 0.0, "random_erasing_rate": 0.0} | options
    return prepare_inputs(
        jax.random.key(7),
        BATCH,
        num_classes=4,
        label_smoothing=0.0,
        batch_augmentations=build_batch_augmentations(text),
        **settings,
    )


def test_a_registered_augmentation_changes_the_clips_with_a_draw_of_its_own() -> None:
    plain, bright, stronger = map(prepare, ((), "brighten", [{"name": "brighten", "most": 3.0}]))
    added = np.asarray(bright.clips - plain.clips)
    for row in added:
        np.testing.assert_allclose(row, row.flat[0], atol=1e-5)
    assert len({round(float(row.flat[0]), 4) for row in added}) == 4
    assert 0 < added.min() < added.max() < 1
    np.testing.assert_allclose(stronger.clips - plain.clips, 3 * added, atol=1e-5)
    np.testing.assert_allclose(prepare("same, brighten, same").clips, bright.clips, rtol=0, atol=0)
    twice = np.asarray(prepare("brighten, brighten").clips - bright.clips)
    assert not np.allclose(twice, added)


def test_published_mixing_and_erasing_draw_as_before() -> None:
    options = {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "random_erasing_rate": 0.5}
    plain, added = prepare((), **options), prepare("same", **options)
    np.testing.assert_array_equal(plain.clips, added.clips)
    np.testing.assert_array_equal(plain.targets, added.targets)
    bright = prepare("brighten", **options)
    np.testing.assert_array_equal(plain.targets, bright.targets)
    assert not jnp.allclose(plain.clips, bright.clips)


def test_the_config_is_checked_and_a_change_of_the_list_has_effect() -> None:
    config = base_config()
    saved = config.to_dict()
    config.data.batch_augmentations = ("brighten(most=2)",)
    train_spec(config)
    (change,) = setting_changes(saved, config)
    assert change.has_effect
    config.data.batch_augmentations = ("brihgten",)
    with pytest.raises(InputError, match="did you mean 'brighten'"):
        train_spec(config)
