"""Exports are loaded in processes where neither vswin_jax nor Flax can be imported."""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np
import pytest
from small_checkpoints import write_video_model

import vswin_jax
from vswin_jax.errors import InputError
from vswin_jax.inference import TrainedModel, load
from vswin_jax.inference.exports import FORMATS, ExportedModel, export
from vswin_jax.inference.exports.stablehlo_file import STABLEHLO
from vswin_jax.inference.opened_checkpoint import open_checkpoint

if TYPE_CHECKING:
    from types import ModuleType

    from conftest import Run

# The usage in the description, run where the packages of training are missing.
PROGRAM = """
import sys
for name in {missing}:
    sys.modules[name] = None
import json, numpy
FILE, clips = {file!r}, numpy.load({clips!r})
{usage}
numpy.save({out!r}, numpy.asarray(probabilities))
"""


@pytest.fixture(scope="module")
def loaded(tiny_run: "Run") -> TrainedModel:
    return load(tiny_run.workdir)


@pytest.fixture(scope="module")
def clips(tiny_run: "Run", loaded: TrainedModel) -> np.ndarray:
    videos = sorted((tiny_run.workdir / "moving_shapes" / "test").glob("*/*.mp4"))
    return np.concatenate([loaded.read_clip(video) for video in videos[:3]])


@pytest.fixture(scope="module")
def stablehlo(tiny_run: "Run", tmp_path_factory: pytest.TempPathFactory) -> ExportedModel:
    videos = tiny_run.workdir / "moving_shapes" / "test"
    out = tmp_path_factory.mktemp("stablehlo") / "mine.stablehlo"
    return vswin_jax.export(tiny_run.workdir, out, clips=[videos / "grow", videos / "move_up"])


def probabilities_elsewhere(
    exported: ExportedModel, clips: np.ndarray, directory: Path, missing: tuple[str, ...]
) -> np.ndarray:
    """Run the line `usage` of the description in another process, from another directory."""
    np.save(directory / "clips.npy", clips)
    program = PROGRAM.format(
        missing=missing,
        file=str(exported.path),
        clips=str(directory / "clips.npy"),
        usage=json.loads(exported.description.read_text())["usage"],
        out=str(directory / "probabilities.npy"),
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=directory,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return np.load(directory / "probabilities.npy")


def test_stablehlo_needs_jax_alone(
    stablehlo: ExportedModel, loaded: TrainedModel, clips: np.ndarray, tmp_path: Path
) -> None:
    found = probabilities_elsewhere(stablehlo, clips, tmp_path, ("vswin_jax", "flax", "tensorflow"))
    np.testing.assert_allclose(found, loaded.probabilities(clips), atol=1e-6)


def test_stablehlo_is_for_three_platforms(stablehlo: ExportedModel) -> None:
    exported = jax.export.deserialize(bytearray(stablehlo.path.read_bytes()))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    assert str(exported.in_avals[0]) == "uint8[batch,4,16,16,3]"
    assert str(exported.out_avals[0]) == "float32[batch,8]"
    # No kernel of one platform, and nothing that a later version of JAX may drop.
    targets = {line.split("@")[1].split("(")[0] for line in custom_calls(exported)}
    assert targets <= {"shape_assertion"}


def custom_calls(exported: "jax.export.Exported") -> list[str]:
    return [line for line in exported.mlir_module().splitlines() if "custom_call @" in line]


def test_parameters_are_in_the_file_once(stablehlo: ExportedModel) -> None:
    program_size = 300_000
    assert stablehlo.size == stablehlo.path.stat().st_size
    assert stablehlo.parameter_size < stablehlo.size < stablehlo.parameter_size + program_size


def test_description(stablehlo: ExportedModel, loaded: TrainedModel) -> None:
    description = json.loads(stablehlo.description.read_text())
    assert stablehlo.description.name == "mine.stablehlo.json"
    assert description["label_names"] == list(loaded.label_names)
    assert description["input"]["shape"] == ["batch", 4, 16, 16, 3]
    assert description["output"]["shape"] == ["batch", 8]
    assert description["checkpoint"]["step"] == 40
    assert description["compared"]["clips"] == "2: the middle of 2 videos"
    assert description["compared"]["largest_difference"] == stablehlo.comparison.difference <= 1e-6
    assert sorted(description["layers"]) == ["cpu", "cuda", "tpu"]


def test_savedmodel_needs_tensorflow_alone(
    tiny_run: "Run", loaded: TrainedModel, clips: np.ndarray, tmp_path: Path
) -> None:
    exported = export(tiny_run.workdir, tmp_path / "served", to="savedmodel")
    assert exported.comparison.difference <= 1e-6
    assert exported.comparison.clips == "moving shapes"
    found = probabilities_elsewhere(exported, clips, tmp_path, ("vswin_jax", "flax", "jax"))
    np.testing.assert_allclose(found, loaded.probabilities(clips), atol=1e-6)


def test_onnx_needs_onnxruntime_alone(
    torchvision_models: "ModuleType", tiny_run: "Run", tmp_path: Path
) -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    # torchvision's model has two blocks or more.
    with pytest.raises(InputError, match="this model has one"):
        export(tiny_run.workdir, tmp_path / "one_block.onnx", to="onnx")
    opened = open_checkpoint(write_video_model(tmp_path / "mine.safetensors"))
    with opened.config.unlocked():
        opened.config.data.update(num_frames=5, resize=32, size=32)
        opened.config.eval.resize = 32
    exported = export(opened, tmp_path / "mine.onnx", to="onnx")
    clips = np.random.default_rng(0).integers(0, 256, (3, 5, 32, 32, 3), np.uint8)
    found = probabilities_elsewhere(exported, clips, tmp_path, ("vswin_jax", "jax", "torch"))
    np.testing.assert_allclose(found, TrainedModel(opened).probabilities(clips), atol=1e-5)


@pytest.mark.long
def test_bfloat16_is_compared_with_bfloat16(tiny_run: "Run", tmp_path: Path) -> None:
    exported = export(tiny_run.workdir, tmp_path / "half", dtype="bfloat16")
    assert exported.comparison.difference <= 1e-4
    program = jax.export.deserialize(bytearray(exported.path.read_bytes())).mlir_module()
    # Products are computed in bfloat16, and parameters are stored in it.
    assert program.count("xbf16>") > 100
    assert json.loads(exported.description.read_text())["compute_dtype"] == "bfloat16"


def test_an_export_that_differs_is_deleted(
    tiny_run: "Run", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_uniform(path: Path) -> Callable[[np.ndarray], np.ndarray]:
        assert path.read_bytes() == b"another program"
        return lambda clips: np.full((len(clips), 8), 1 / 8, np.float32)

    wrong = dataclasses.replace(
        STABLEHLO,
        write=lambda _, path: path.write_bytes(b"another program"),
        open=open_uniform,
    )
    monkeypatch.setitem(FORMATS, "stablehlo", wrong)
    with pytest.raises(InputError, match=r"differ by 0\.\d+, so it was deleted"):
        export(tiny_run.workdir, tmp_path / "wrong.stablehlo")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"to": "keras"}, "Unknown format of exports 'keras'"),
        ({"dtype": "float16"}, "Unknown compute dtype 'float16'"),
        ({"to": "onnx", "dtype": "bfloat16"}, "computes in float32 but bfloat16 came"),
        ({"clips": "nowhere.mp4"}, "There is no video file at 'nowhere.mp4'"),
        ({"which": "oldest"}, "oldest"),
    ],
)
def test_wrong_arguments_are_named(
    tiny_run: "Run", tmp_path: Path, options: dict[str, str], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        export(tiny_run.workdir, tmp_path / "out", **options)
    assert list(tmp_path.iterdir()) == []


def test_progress_is_written(
    tiny_run: "Run", tmp_path: Path, refuse_to_write: Callable[[], None]
) -> None:
    lines: list[str] = []
    with pytest.raises(InputError, match="No space left"):
        export(tiny_run.workdir, tmp_path / "full", write_line=lines.append)
    assert lines[0].startswith("the checkpoint of step 40")
    assert lines[1] == "writing the stablehlo export"
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def refuse_to_write(monkeypatch: pytest.MonkeyPatch) -> None:
    def write(loaded: TrainedModel, path: Path) -> None:
        path.write_bytes(b"a part of it")
        raise OSError(28, os.strerror(28))

    full = dataclasses.replace(STABLEHLO, write=write)
    monkeypatch.setitem(FORMATS, "stablehlo", full)
