"""A trained model from Python: its call, its clips, its normalisation."""

import threading
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vswin_jax
from vswin_jax.errors import InputError
from vswin_jax.inference import TrainedModel
from vswin_jax.predict import predict
from vswin_jax.runtime.compilation import Compilations

if TYPE_CHECKING:
    from conftest import Run


@pytest.fixture(scope="module")
def model(tiny_run: "Run") -> TrainedModel:
    return vswin_jax.load(tiny_run.workdir)


@pytest.fixture(scope="module")
def videos(tiny_run: "Run") -> list[Path]:
    return sorted((tiny_run.workdir / "moving_shapes" / "test").glob("*/*.mp4"))


def test_agrees_with_predict(model: TrainedModel, tiny_run: "Run", videos: list[Path]) -> None:
    (prediction,) = predict(videos[3], tiny_run.workdir, topk=8)
    clip = model.read_clip(videos[3])
    assert clip.shape == (1, 4, 16, 16, 3)
    assert np.array_equal(clip[0], prediction.frames)
    probabilities = np.asarray(model.probabilities(clip))[0]
    order = np.argsort(-probabilities, kind="stable")
    assert tuple(model.label_names[k] for k in order) == prediction.labels
    np.testing.assert_allclose(probabilities[order], prediction.probabilities, atol=1e-6)
    logits = model(clip)
    assert logits.shape == (1, 8)
    np.testing.assert_allclose(jax.nn.softmax(logits)[0], probabilities, atol=1e-6)


def test_pixels_and_normalised_clips_give_the_same(model: TrainedModel, videos: list[Path]) -> None:
    views = model.read_views(videos[0], views=(2, 3))
    assert views.shape == (6, 4, 16, 16, 3)
    normalized = (views - np.array(model.mean)) / np.array(model.std)
    np.testing.assert_allclose(model(normalized), model(views), atol=1e-5)
    final = model.features(views)["final"].mean((1, 2, 3))
    head = model.params["head"]
    np.testing.assert_allclose(final @ head["kernel"] + head["bias"], model(views), atol=1e-5)


def test_a_batch_of_a_size_is_compiled_once(model: TrainedModel) -> None:
    clips = np.zeros((2, 6, 24, 16, 3), np.uint8)
    results = []
    model(clips)
    with Compilations() as compilations:
        threads = [threading.Thread(target=lambda: results.append(model(clips))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert compilations.fresh == compilations.cached == []
    assert len(results) == 4
    assert all(np.array_equal(result, results[0]) for result in results)


def test_within_a_compiled_function_and_a_gradient(model: TrainedModel) -> None:
    clips = jnp.asarray(np.random.default_rng(0).normal(size=(1, 4, 16, 16, 3)), jnp.float32)
    loss = jax.jit(lambda clips: model(clips)[0, 2])
    np.testing.assert_allclose(loss(clips), model(clips)[0, 2], atol=1e-5)
    assert float(jnp.abs(jax.grad(loss)(clips)).max()) > 0


def test_wrong_clips_get_a_sentence(model: TrainedModel) -> None:
    pixels = np.full((1, 4, 16, 16, 3), 200.0, np.float32)
    for clips, words in (
        (pixels, "Expected normalised clips, between about -2.1 and 2.6"),
        # The values of an array on a device are looked at with the first batch of their size.
        (jnp.asarray(pixels)[:, :, :8], "Expected normalised clips"),
        (pixels[0], "add the axis of the batch"),
        (pixels.astype(np.int64), "int64 came"),
        (np.zeros((1, 3, 4, 16, 16), np.float32), "PyTorch's"),
    ):
        with pytest.raises(InputError, match=words):
            model(clips)


def test_wrong_videos(model: TrainedModel, tiny_run: "Run", tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no video file"):
        model.read_clip(tmp_path / "missing.mp4")
    with pytest.raises(InputError, match=r"Expected one video but .* has 8"):
        model.read_clip(tiny_run.workdir / "moving_shapes" / "test")
    (tmp_path / "torn.mp4").write_text("no video")
    with pytest.raises(InputError, match=r"torn\.mp4"):
        model.read_clip(tmp_path / "torn.mp4")


def test_says_what_it_is(model: TrainedModel, tiny_run: "Run") -> None:
    assert repr(model) == (
        f"TrainedModel({str(tiny_run.workdir)!r}, step=40, classes=8, clip='4x16x16', "
        f"dtype='float32')"
    )
    assert model.config.name == "quickstart"
    assert vswin_jax.load(tiny_run.workdir, dtype="bfloat16").model.dtype == jnp.bfloat16
