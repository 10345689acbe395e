"""The examples of docs/extending.md, as they stand there, in a package of their own."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vswin_jax.checkpoint import load_for_inference, read_metadata, steps_in
from vswin_jax.config import flags
from vswin_jax.config.plugins import import_plugins
from vswin_jax.data.clips.clip_augmentations import AUGMENTATIONS
from vswin_jax.data.moving_shapes.moving_shapes import write_moving_shapes
from vswin_jax.data.sources.source_registry import SOURCE_FORMATS
from vswin_jax.errors import InputError
from vswin_jax.main import run as run_main
from vswin_jax.models.attention_registry import ATTENTION_LAYERS
from vswin_jax.predict import run as run_predict

REPOSITORY = Path(__file__).parents[1]
PAGE = REPOSITORY / "docs" / "extending.md"
# One stage alone, which compiles in half of the time, and one decoding process.
SMALL = (
    *("--config.model.depths=1,", "--config.model.num_heads=2,"),
    "--config.data.processes=1",
)
COMMAND = ("--config", "my_video/recipe.py", "--workdir", "run", *SMALL)
OWN = ((AUGMENTATIONS, "film_grain"), (ATTENTION_LAYERS, "cosine"), (SOURCE_FORMATS, "shot_list"))


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m` in the folder of the user, who has the package installed."""
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=600,
    )


def write_package(folder: Path) -> None:
    """Write the blocks of code of the page to the files that their first lines name."""
    (folder / "my_video").mkdir()
    (folder / "my_video" / "__init__.py").touch()
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        first, _, _ = block.partition("\n")
        (folder / first.removeprefix("# ")).write_text(block)


def write_videos(folder: Path) -> None:
    options = {"train_scenes": 1, "test_scenes": 1, "seed": 0, "size": 40}
    write_moving_shapes(folder / "shapes", **options, num_frames=8, fps=12)
    for split in ("train", "test"):
        by_class = {
            path.name: [str(video.relative_to(folder)) for video in path.iterdir()]
            for path in (folder / "shapes" / split).iterdir()
            if path.is_dir()
        }
        (folder / f"{split}.json").write_text(json.dumps(by_class))


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a user with the package and videos."""
    folder = tmp_path_factory.mktemp("user")
    write_package(folder)
    write_videos(folder)
    return folder


@pytest.fixture(scope="module")
def trained(user: Path) -> Path:
    result = python(user, "vswin_jax.main", *COMMAND)
    assert result.returncode == 0, result.stderr
    assert "this model has 'cosine(max_scale=50)'" in result.stderr
    return user


@pytest.fixture
def inside(user: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Enter the user's folder in this process, which forgets the user's modules at the end."""
    monkeypatch.chdir(user)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield user
    for registry, name in OWN:
        if name in registry:
            registry.remove(name)
    for name in [name for name in sys.modules if name.split(".")[0] == "my_video"]:
        del sys.modules[name]


def test_a_recipe_trains_with_all_four(trained: Path) -> None:
    params, metadata = load_for_inference(trained / "run")
    config = metadata["config"]
    assert config["name"] == "my_video"
    assert config["plugins"] == "my_video.augmentations, my_video.attention, my_video.formats"
    assert config["data"]["augmentations"] == [{"name": "film_grain", "strength": 12.0, "p": 0.5}]
    # The formats of the user: the classes in alphabetical order, and the list's own names.
    by_class = json.loads((trained / "train.json").read_text())
    assert list(metadata["label_names"]) == sorted(by_class)
    assert metadata["data"]["train"]["videos"] == 8
    rows = (trained / "run" / "evaluation" / "predictions.csv").read_text()
    assert all(video in rows for video in json.loads((trained / "test.json").read_text())["grow"])
    # The attention of the user: its parameter begins at log(10) and has been trained.
    scale = params["layers_0"]["blocks_0"]["attn"]["log_scale"]
    assert scale.shape == (2, 1)
    np.testing.assert_allclose(scale, np.log(10), atol=0.01)
    assert not np.array_equal(scale, np.full_like(scale, np.log(10)))


@pytest.mark.long
def test_the_same_command_resumes_to_the_same_weights(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "copy")
    run = tmp_path / "copy" / "run"
    before, _ = load_for_inference(run)
    assert max(steps_in(run / "checkpoints")) == 4
    shutil.rmtree(run / "checkpoints" / "4")
    result = python(tmp_path / "copy", "vswin_jax.main", *COMMAND)
    assert result.returncode == 0, result.stderr
    after, metadata = load_for_inference(run)
    assert metadata["step"] == 4
    kernels = [p["layers_0"]["blocks_0"]["attn"]["qkv"]["kernel"] for p in (before, after)]
    np.testing.assert_array_equal(*kernels)


@pytest.mark.long
def test_evaluation_and_prediction_need_the_modules_named(
    trained: Path, inside: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    evaluate = ["--mode=evaluate", "--workdir", "run"]
    predict = ["shapes/test/grow", "--checkpoint", "run", "--topk", "1"]
    for command, arguments in ((run_main, evaluate), (run_predict, predict)):
        assert command(arguments) == 2
        error = capfd.readouterr().err
        assert "Unknown attention layer 'cosine'" in error
        named = "my_video.augmentations,my_video.attention,my_video.formats"
        assert f"--config.plugins={named} (--plugins {named} for predict and scripts)" in error
        assert "my_video.attention" not in sys.modules
    assert run_main([*evaluate, "--config.plugins=my_video.attention,my_video.formats"]) == 0
    assert "on 8 videos" in capfd.readouterr().out
    assert "my_video.augmentations" not in sys.modules
    assert run_predict([*predict, "--plugins", "my_video.attention"]) == 0
    printed = capfd.readouterr().out
    assert printed.count("%") == 1
    assert any(name in printed for name in json.loads((inside / "train.json").read_text()))


def test_the_augmentation_changes_the_share_of_clips_that_it_should(inside: Path) -> None:
    from vswin_jax import factory
    from vswin_jax.data.pipeline.pipeline import train_batches

    config = flags.load("my_video/recipe.py")
    source = factory.open_split(config, inside / "none", "train")
    spec = factory.train_spec(config)
    (step,) = spec.augmentations
    assert (step.name, step.p, step.function.strength) == ("film_grain", 0.5, 12.0)
    batches = {
        name: train_batches(source, replace(spec, augmentations=steps), batch_size=8, seed=0)
        for name, steps in (("with", spec.augmentations), ("without", ()))
    }
    changed = []
    for _ in range(3):
        grainy, plain = next(batches["with"]), next(batches["without"])
        flipped = np.where(
            plain["flip"][:, None, None, None, None, None],
            plain["video"][:, :, :, :, ::-1],
            plain["video"],
        )
        difference = grainy["video"].astype(int) - flipped
        changed += [bool(row.any()) for row in difference]
        for row, frame in zip(difference, flipped, strict=True):
            inner = row[(frame > 60) & (frame < 195)]
            if row.any() and inner.size > 1000:
                assert 10 < inner.std() < 14
    assert 6 <= sum(changed) <= 18


def test_a_recipe_can_be_told_other_things_on_the_command_line(inside: Path) -> None:
    config = flags.override(
        flags.load("my_video/recipe.py:size=large"),
        [
            "--config.data.augmentations=film_grain(strength=3, p=0.2), color_jitter",
            "--config.model.attention_layer=reference",
        ],
    )
    from vswin_jax import factory

    assert config.model.embed_dim == 32
    steps = factory.train_spec(config).augmentations
    assert [(step.name, step.p) for step in steps] == [("film_grain", 0.2), ("color_jitter", 1.0)]
    assert steps[0].function.strength == 3.0


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("data.augmentations=film_grian", "Unknown augmentation 'film_grian': did you mean 'film"),
        ("data.augmentations=film_grain(strenght=3)", "did you mean 'strength'? The known ones"),
        ("model.attention_layer=cosin", "Unknown attention layer 'cosin': did you mean 'cosine'?"),
        ("model.attention_layer=cosine(max_scale='x')", "option 'max_scale' of the attention"),
        ("plugins=my_vido", "there is no 'my_vido': start from the folder"),
        ("plugins=my_video/attention.py", "give a name without a path"),
        ("data.train=shot_lits:train.json", "did you mean 'shot_list'?"),
        ("mesh.window=1", ""),
    ],
)
def test_wrong_names_are_answered_with_the_near_ones(
    argument: str, message: str, inside: Path
) -> None:
    from vswin_jax import factory

    def build() -> None:
        config = flags.override(flags.load("my_video/recipe.py"), [f"--config.{argument}"])
        factory.train_spec(config)
        factory.build_model(config, 8)
        factory.open_split(config, inside / "none", "train")

    if not message:
        build()
        return
    with pytest.raises(InputError) as error:
        build()
    assert message in str(error.value)


def test_a_plugin_that_imports_what_is_not_installed_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "needs_more.py").write_text("import not_there_at_all\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match="'needs_more' imports 'not_there_at_all', which is not"):
        import_plugins("needs_more")


def test_the_names_of_modules_are_saved_and_change_nothing(trained: Path) -> None:
    from vswin_jax.config.changes import setting_changes
    from vswin_jax.config.renames import load_saved_config

    saved = read_metadata(trained / "run")["config"]
    now = load_saved_config(saved)
    now.plugins = "my_video"
    now.data.augmentations = ("film_grain(strength=12.0, p=0.5)", "grayscale")
    changes = {c.description.split()[0]: c.has_effect for c in setting_changes(saved, now)}
    assert changes == {"config.plugins": False, "config.data.augmentations": True}
