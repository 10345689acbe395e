"""Checkpoints that other programs wrote, and heads that were never trained."""

import re
from pathlib import Path

import numpy as np
import pytest
from small_checkpoints import (
    small_model,
    small_params,
    write_image_model,
    write_small_video,
    write_video_model,
)

import vswin_jax
from vswin_jax.config import base_config
from vswin_jax.errors import InputError
from vswin_jax.inference.opened_checkpoint import open_checkpoint
from vswin_jax.predict import predict, run
from vswin_jax.weights.convert import convert
from vswin_jax.weights.files.orbax_directory import write_workdir
from vswin_jax.weights.layouts.target_spec import TargetSpec


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_video(tmp_path_factory.mktemp("video") / "clip.mp4")


def test_a_file_predicts_like_its_converted_directory(
    video: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = write_video_model(tmp_path / "small.safetensors")
    convert(file, tmp_path / "converted")
    (expected,) = predict(video, tmp_path / "converted", views=(1, 1))
    assert predict(video, file, views=(1, 1)) == [expected]
    folder = tmp_path / "hugging_face"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(file.read_bytes())
    assert run([str(video), f"--checkpoint={folder}", "--topk=1", "--views=1x1"]) == 0
    out, err = capfd.readouterr()
    assert out.splitlines()[1] == f"  {expected.probabilities[0]:6.1%}  {expected.label}"
    assert err.splitlines() == [
        f"the weights in '{folder / 'model.safetensors'}' (swin_tiny, 5 classes; clips of "
        f"32x24x24 as published)"
    ]


def test_label_files_name_the_classes(video: Path, tmp_path: Path) -> None:
    file = write_video_model(tmp_path / "small.safetensors")
    (tmp_path / "names.txt").write_text("a\nb\nc\nd\ne\n")
    (numbered,) = predict(video, file, views=(1, 1))
    (named,) = predict(video, file, views=(1, 1), labels=tmp_path / "names.txt")
    letters = {f"class_{index}": letter for index, letter in enumerate("abcde")}
    assert named.labels == tuple(letters[label] for label in numbered.labels)
    assert named.probabilities == numbered.probabilities
    convert(file, tmp_path / "converted")
    opened = open_checkpoint(tmp_path / "converted", labels=tmp_path / "names.txt")
    assert opened.label_names == tuple("abcde")
    (tmp_path / "few.txt").write_text("class_3\nclass_1\n")
    few = open_checkpoint(tmp_path / "converted", labels=tmp_path / "few.txt")
    kernels = [each.load(each.build_model())["head"]["kernel"] for each in (opened, few)]
    assert np.array_equal(kernels[1], kernels[0][:, [3, 1]])


def test_four_hundred_classes_are_those_of_kinetics(tmp_path: Path) -> None:
    opened = open_checkpoint(write_video_model(tmp_path / "k400.safetensors", num_classes=400))
    assert [opened.label_names[k] for k in (0, 399)] == ["abseiling", "zumba"]
    assert opened.step is None


def test_a_model_of_images_is_refused_with_the_way_to_train_it(tmp_path: Path) -> None:
    image = write_image_model(tmp_path / "image.safetensors")
    with pytest.raises(InputError) as caught:
        vswin_jax.load(image)
    assert re.fullmatch(
        r"Expected a trained classifier of videos but .*image\.safetensors is a model of images, "
        r"without a classifier of videos: train one from it with `python -m vswin_jax\.main "
        r"--config experiments/finetune_folder\.py:root=my_videos --workdir runs/mine "
        r"--config\.init_from=.*image\.safetensors`, and give runs/mine\.",
        str(caught.value),
    )


def test_a_random_head_is_said_with_every_prediction(
    video: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    image = write_image_model(tmp_path / "image.safetensors")
    convert(image, tmp_path / "fresh", TargetSpec(num_classes=3))
    assert set(open_checkpoint(tmp_path / "fresh").random) == {"head.weight", "head.bias"}
    sentence = f"warning: the classifier of '{tmp_path / 'fresh'}' has random weights"
    for _ in range(2):
        caplog.clear()
        predict(video, tmp_path / "fresh", views=(1, 1))
        assert [m for m in caplog.messages if m.startswith(sentence)]
    # Converted directories of earlier versions do not record it: the bias is still zero there.
    params = small_params(small_model())
    params["head"]["bias"] = np.zeros_like(params["head"]["bias"])
    config = base_config()
    config.model.update(name="swin_tiny", dtype="float32")
    (tmp_path / "old").mkdir()
    write_workdir(
        tmp_path / "old", params, {"config": config.to_dict(), "label_names": list("abcde")}
    )
    opened = open_checkpoint(tmp_path / "old")
    assert "old" in str(opened.head_warning(params))
    assert opened.head_warning(small_params(small_model())) is None


def test_wrong_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "custom").mkdir()
    write_workdir(tmp_path / "custom", small_params(small_model()), {})
    (tmp_path / "text.pth").write_text("no weights")
    for source, words in (
        (tmp_path / "custom", "with the config and the class names of its run"),
        (tmp_path / "text.pth", r"text\.pth"),
        (tmp_path / "missing.pth", r"There is no checkpoint at .*missing\.pth"),
        (tmp_path / "costum", r"costum \(did you mean .*/custom\?\): give an existing file"),
        ("s3x://bucket/run", "The checkpoint at s3x://bucket/run cannot be read"),
        ("swin_tiny_patch244_window877_kinetics400", "did you mean 'swin_tiny_patch244_window877"),
    ):
        with pytest.raises(InputError, match=words):
            open_checkpoint(source)
