"""Conversions through the function and the script, and uses of the results."""

import json
import os
import subprocess
import sys
from pathlib import Path

import av
import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from vswin_jax import factory
from vswin_jax.checkpoint import load_for_inference
from vswin_jax.config import base_config, rules
from vswin_jax.errors import InputError
from vswin_jax.evaluation.evaluated_weights import find_weights
from vswin_jax.models import SwinTransformer3D, create_model, init_params
from vswin_jax.predict import predict
from vswin_jax.weights import detect_layout, load_weights, read_torch_file, to_state_dict
from vswin_jax.weights.convert import convert
from vswin_jax.weights.files.orbax_directory import write_workdir
from vswin_jax.weights.layouts.target_spec import TargetSpec
from vswin_jax.weights.pytorch_export import export_state_dict

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "convert_weights.py"
SMALL = {"embed_dim": 8, "depths": (1, 1), "num_heads": (1, 2), "window_size": (2, 3, 3)}
State = dict[str, np.ndarray]
Params = dict[str, object]


def small(num_classes: int = 5, **overrides: object) -> SwinTransformer3D:
    return create_model("swin_tiny", num_classes, **{**SMALL, **overrides})


def random_params(model: SwinTransformer3D) -> Params:
    shapes = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
    rng = np.random.default_rng(3)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.1, leaf.shape).astype(np.float32), shapes)


def write_file(path: Path, model: SwinTransformer3D, layout: str = "original") -> Path:
    state = export_state_dict(random_params(model), layout, model.window_size)
    save_file({name: np.ascontiguousarray(value) for name, value in state.items()}, path)
    return path


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_file(tmp_path_factory.mktemp("source") / "small.safetensors", small())


@pytest.fixture(scope="module")
def converted(original: Path) -> Path:
    destination = original.parent / "small"
    convert(original, destination)
    return destination


def write_image_file(path: Path) -> Path:
    """Write a file of an image model: no time axis in patches and tables."""
    state = to_state_dict(random_params(small(7)))
    state = {name: np.ascontiguousarray(value) for name, value in state.items()}
    state["patch_embed.proj.weight"] = state["patch_embed.proj.weight"].sum(2)
    tables = [name for name in state if name.endswith("bias_table")]
    save_file(state | {name: state[name][:25].copy() for name in tables}, path)
    return path


def write_video(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 32
        for shade in range(8):
            picture = np.full((32, 32, 3), 30 * shade, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode())
    return path


def assert_same(one: State, other: State) -> None:
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def values(source: Path, model: SwinTransformer3D) -> State:
    return to_state_dict(load_weights(source, model)["params"])


def test_a_workdir_has_the_same_weights_and_the_metadata(original: Path, converted: Path) -> None:
    assert_same(values(converted, small()), values(original, small()))
    _, metadata = load_for_inference(converted)
    assert metadata["label_names"] == [f"class_{index}" for index in range(5)]
    saved = metadata["config"]
    assert saved["name"] == "small"
    assert tuple(saved["model"]["window_size"]) == (2, 3, 3)
    assert saved["model"]["num_classes"] == 5
    # One window of the last stage: 3 tokens of 4 pixels, merged once.
    assert saved["data"]["size"] == saved["eval"]["resize"] == 24
    assert saved["data"]["num_frames"] == 32
    assert saved["eval"]["num_clips"] == 4
    assert saved["eval"]["num_crops"] == 3


def test_evaluate_and_init_from_need_no_other_flag(converted: Path) -> None:
    metadata = load_for_inference(converted)[1]
    config = factory.ConfigDict(metadata["config"])
    rules.check(config)
    weights = find_weights(config, converted)
    model = factory.build_model(config, len(weights.label_names))
    assert model == small()
    assert_same(to_state_dict(weights.load(model)), values(converted, small()))
    config.init_from = str(converted)
    assert find_weights(config, converted / "nothing").label_names
    start = factory.starting_weights(config)(small(3))
    assert start["head"]["kernel"].shape == (16, 3)


def test_a_hugging_face_directory_is_evaluated_as_a_file(original: Path, tmp_path: Path) -> None:
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "model.safetensors").write_bytes(original.read_bytes())
    config = base_config()
    config.init_from = str(tmp_path / "hub")
    weights = find_weights(config, tmp_path / "nothing")
    assert weights.label_names is None
    assert_same(to_state_dict(weights.load(small())), values(original, small()))


def test_predict_needs_no_other_flag(converted: Path, tmp_path: Path) -> None:
    (prediction,) = predict(write_video(tmp_path / "clip.mp4"), converted, topk=9)
    assert set(prediction.labels) == {f"class_{index}" for index in range(5)}
    assert sum(prediction.probabilities) == pytest.approx(1, abs=1e-5)


@pytest.mark.long
@pytest.mark.parametrize("layout", ["original", "mmaction2", "torchvision"])
def test_a_workdir_converts_to_every_layout_and_back(
    converted: Path, original: Path, tmp_path: Path, layout: str
) -> None:
    out = tmp_path / "out.safetensors"
    convert(converted, out, to=layout)
    assert_same(load_file(out), load_file(write_file(tmp_path / "exported", small(), layout)))
    convert(out, tmp_path / "again")
    assert_same(values(tmp_path / "again", small()), values(original, small()))


def test_a_file_has_the_original_layout_by_default(converted: Path, tmp_path: Path) -> None:
    convert(converted, tmp_path / "out.safetensors")
    assert "backbone.norm.weight" in load_file(tmp_path / "out.safetensors")


def test_an_image_model_becomes_a_video_model(tmp_path: Path) -> None:
    source = write_image_file(tmp_path / "image.safetensors")
    convert(source, tmp_path / "video")
    model = small(7, window_size=(8, 3, 3))
    assert_same(values(tmp_path / "video", model), values(source, model))
    kept = tmp_path / "kept.safetensors"
    assert convert(source, kept, TargetSpec(image_head="keep")).count("fresh") == 0
    head = load_file(kept)["cls_head.fc_cls.weight"]
    np.testing.assert_array_equal(head, load_file(source)["head.weight"])
    target_spec = TargetSpec(window=(4, 5, 5), patch=(4, 4, 4), tables="center", patches="center")
    convert(source, tmp_path / "other", target_spec)
    state = values(tmp_path / "other", small(7, window_size=(4, 5, 5), patch_size=(4, 4, 4)))
    kernel = state["patch_embed.proj.weight"]
    assert np.count_nonzero(np.any(kernel != 0, axis=(0, 1, 3, 4))) == 1
    table = state["layers.0.blocks.0.attn.relative_position_bias_table"].reshape(7, 81, -1)
    assert np.count_nonzero(np.any(table != 0, axis=(1, 2))) == 1


def test_a_workdir_with_other_windows_keeps_the_rest_of_its_config(
    converted: Path, tmp_path: Path
) -> None:
    convert(converted, tmp_path / "longer", TargetSpec(window=(4, 3, 3), num_classes=2))
    before, after = (load_for_inference(d)[1] for d in (converted, tmp_path / "longer"))
    assert after["label_names"] == ["class_0", "class_1"]
    assert after["config"]["data"] == before["config"]["data"]
    settings = factory.ConfigDict(after["config"])
    assert factory.build_model(settings, 2) == small(2, window_size=(4, 3, 3))


def test_a_checkpoint_without_metadata_is_inferred_from_its_shapes(
    converted: Path, tmp_path: Path
) -> None:
    params, _ = load_for_inference(converted)
    write_workdir(tmp_path / "bare", params, {})
    convert(tmp_path / "bare", tmp_path / "out", TargetSpec(window=(2, 3, 3)))
    assert_same(values(tmp_path / "out", small()), values(converted, small()))


def test_labels_select_rows_of_a_head_with_known_names(tmp_path: Path) -> None:
    source = write_file(tmp_path / "k400.safetensors", small(400))
    labels = tmp_path / "labels.txt"
    labels.write_text("air drumming\n\nabseiling\n")
    convert(source, tmp_path / "two", TargetSpec(labels=labels))
    whole, two = values(source, small(400)), values(tmp_path / "two", small(2))
    np.testing.assert_array_equal(two["head.weight"], whole["head.weight"][[1, 0]])
    assert load_for_inference(tmp_path / "two")[1]["label_names"] == ["air drumming", "abseiling"]
    labels.write_text("air drumming\nabsailing\n")
    with pytest.raises(InputError, match="abseiling"):
        convert(source, tmp_path / "three", TargetSpec(labels=labels))
    assert not (tmp_path / "three").exists()


def test_labels_name_the_rows_of_a_head_without_names(original: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join("abcde"))
    convert(original, tmp_path / "named", TargetSpec(labels=labels))
    assert_same(values(tmp_path / "named", small()), values(original, small()))
    assert load_for_inference(tmp_path / "named")[1]["label_names"] == list("abcde")
    labels.write_text("e\nb")
    convert(tmp_path / "named", tmp_path / "fewer", TargetSpec(labels=labels))
    np.testing.assert_array_equal(
        values(tmp_path / "fewer", small(2))["head.weight"],
        values(original, small())["head.weight"][[4, 1]],
    )


def test_another_class_count_gives_a_fresh_head_in_the_report(
    original: Path, tmp_path: Path
) -> None:
    report = convert(original, tmp_path / "three", TargetSpec(num_classes=3))
    assert set(report.named("fresh")) == {"head.bias", "head.weight"}


def test_the_config_has_the_published_protocol_of_the_model(tmp_path: Path) -> None:
    source = write_file(tmp_path / "ssv2.safetensors", small(174))
    convert(source, tmp_path / "ssv2")
    saved = load_for_inference(tmp_path / "ssv2")[1]["config"]
    assert (saved["data"]["sampling"], saved["eval"]["num_clips"]) == ("uniform", 1)
    source = write_file(tmp_path / "k400.safetensors", small(400))
    convert(source, tmp_path / "k400")
    assert load_for_inference(tmp_path / "k400")[1]["label_names"][399] == "zumba"


@pytest.mark.parametrize(
    ("name", "to", "wrapper"),
    [
        ("small.pth", None, "state_dict"),
        ("small.PT", "mmaction2", "state_dict"),
        ("pytorch_model.bin", "torchvision", None),
    ],
)
def test_a_file_of_torch_has_the_same_weights(
    original: Path, tmp_path: Path, name: str, to: str | None, wrapper: str | None
) -> None:
    convert(original, tmp_path / name, to=to)
    loaded = read_torch_file(tmp_path / name)
    assert detect_layout(loaded[wrapper] if wrapper else loaded) == (to or "original")
    assert_same(values(tmp_path / name, small()), values(original, small()))
    assert file_names(tmp_path) == {name}


def file_names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


@pytest.mark.parametrize(
    ("destination", "options", "message"),
    [
        ("out.npz", {"to": "original"}, "a file that ends in .safetensors, .pth, .pt or .bin on"),
        ("out.ckpt", {}, "a directory, or a file that ends in .safetensors"),
        ("out.pth", {"to": "orbax"}, "Expected a directory on this machine"),
        ("out.safetensors", {"to": "orbax"}, "Expected a directory"),
        ("gs://bucket/out", {}, "on this machine"),
        ("out", {"to": "onnx"}, "Unknown kind of checkpoint to write 'onnx'"),
        ("nowhere/out", {}, "which does not exist"),
        ("out", {"target_spec": TargetSpec(model="swin_base")}, "another model"),
        ("out", {"target_spec": TargetSpec(num_classes=0)}, "Expected a classifier"),
        ("out", {"target_spec": TargetSpec(num_classes=-1)}, "Expected a number of classes"),
        ("out", {"target_spec": TargetSpec(labels="no.txt")}, "no.txt' cannot be read"),
        ("out", {"report": "nowhere/report.json"}, "the report to be a file that can"),
    ],
)
def test_invalid_arguments_are_errors_and_leave_no_files(
    original: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    destination: str,
    options: dict[str, object],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        convert(original, destination, **options)
    assert file_names(tmp_path) == set()


def test_an_existing_destination_is_kept(original: Path, converted: Path) -> None:
    before = file_names(original.parent)
    with pytest.raises(InputError, match="already exists"):
        convert(original, converted)
    assert file_names(original.parent) == before


def test_a_failed_write_leaves_no_files(
    original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, *_: object) -> None:
        (path / "checkpoints").mkdir(parents=True)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vswin_jax.weights.convert.write_workdir", fail)
    with pytest.raises(InputError, match="No space left on device"):
        convert(original, tmp_path / "out")
    assert file_names(tmp_path) == set()


def run_script(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.mark.long
def test_the_script_writes_a_workdir_and_a_report(original: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    arguments = ("--window", "4,3,3", "--num-classes", 3, "--report", report)
    done = run_script(original, tmp_path / "out", *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.endswith(f"written to {tmp_path / 'out'}\n")
    load_report = json.loads(report.read_text())
    assert load_report["layout"] == "original"
    assert load_report["counts"]["fresh"] == 2
    assert load_report["counts"]["transformed"] == 2
    assert load_weights(tmp_path / "out", small(3, window_size=(4, 3, 3)))
    assert file_names(tmp_path) == {"out", "report.json"}


def test_a_prefix_chooses_among_several_swins(original: Path, tmp_path: Path) -> None:
    state = load_file(original)
    both = {f"a.{k}": v for k, v in state.items()} | {f"b.{k}": v + 1 for k, v in state.items()}
    save_file(both, tmp_path / "both.safetensors")
    with pytest.raises(InputError, match=r"several Swins, .* 'a.backbone.', 'b.backbone.': choose"):
        convert(tmp_path / "both.safetensors", tmp_path / "out")
    report = convert(tmp_path / "both.safetensors", tmp_path / "out", TargetSpec(prefix="a"))
    assert report.notes[0].startswith("of several Swins, the one under 'a.backbone.' was taken")
    assert_same(values(tmp_path / "out", small()), values(original, small()))


@pytest.mark.long
def test_the_script_prints_what_was_removed_from_the_names(original: Path, tmp_path: Path) -> None:
    source = tmp_path / "wrapped.safetensors"
    save_file({f"model.module.{name}": v for name, v in load_file(original).items()}, source)
    done = run_script(source, tmp_path / "out")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\n  removed 'model.module.' from " in done.stdout
    assert_same(values(tmp_path / "out", small()), values(original, small()))


def test_the_script_prints_one_line_for_a_web_page(tmp_path: Path) -> None:
    (tmp_path / "page.pth").write_text("<!DOCTYPE html><html>Not found</html>")
    failed = run_script(tmp_path / "page.pth", tmp_path / "out")
    assert failed.returncode == 2
    assert failed.stdout == ""
    assert failed.stderr.startswith("error: ")
    assert failed.stderr.count("\n") == 1
    assert file_names(tmp_path) == {"page.pth"}
