"""Each augmentation alone: pictures, labels and strengths are those of training."""

import runpy
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from vswin_jax import factory
from vswin_jax.config import flags
from vswin_jax.data.clips.rand_augment import OPERATIONS
from vswin_jax.data.moving_shapes.moving_scene import MOTIONS
from vswin_jax.data.pipeline.pipeline import train_batches
from vswin_jax.data.sources.sources import open_source
from vswin_jax.preview.augmentations import OFF, augmentation_clips
from vswin_jax.reporting.contact_sheet import ShownClip, draw_sheet

if TYPE_CHECKING:
    from conftest import Run

pytestmark = pytest.mark.long
ROOT = Path(__file__).parents[2]
SSV2 = f"{ROOT / 'experiments' / 'ssv2.py'}:runlocal"
SMALL = (
    "--config.data.resize=24",
    "--config.data.size=20",
    "--config.eval.resize=20",
    "--config.data.num_frames=4",
)
ALWAYS = ["as decoded", "random resized crop", "centre crop"]
CLASSES = sorted(MOTIONS)
DEVICE = ["random erasing", "mixup", "CutMix"]


def shown(run: "Run", *overrides: str, examples: tuple[int, int] = (1, 6)) -> dict[str, ShownClip]:
    """Return the rows by name, without the parts of labels about being off or about shares."""
    config = flags.override(flags.load(SSV2), [*SMALL, *overrides])
    source = open_source(run.workdir / "moving_shapes" / "train")
    example, partner = (source[index] for index in examples)
    clips = augmentation_clips(
        example,
        partner,
        config=config,
        spec=factory.clip_spec(config),
        label_names=source.label_names,
    )
    return {clip.label.partition(":")[0].removesuffix(OFF): clip for clip in clips}


def test_every_augmentation_has_a_row(tiny_run: "Run") -> None:
    rows = shown(tiny_run)
    operations = [name.replace("_", " ") for name in OPERATIONS]
    assert list(rows) == [*ALWAYS, "horizontal flip", "cropped sides", *operations, *DEVICE]
    assert {clip.frames.dtype for clip in rows.values()} == {np.dtype(np.uint8)}
    assert {clip.frames.shape[1:] for clip in list(rows.values())[1:]} == {(20, 20, 3)}


def test_augmentations_that_are_off_are_labelled_and_have_the_strength_of_the_recipes(
    tiny_run: "Run",
) -> None:
    ssv2 = shown(tiny_run)
    assert [name for name, clip in ssv2.items() if OFF in clip.label] == ["mixup", "CutMix"]
    assert ssv2["horizontal flip"].name == "probability 0; RandAugment's: 0.5"
    assert ssv2["rotate"].name == "RandAugment, magnitude 7 of 30"
    plain = ("--config.data.rand_augment.n=0", "--config.loss.random_erasing=0.0")
    mixed = ("--config.loss.mixup_alpha=0.8", "--config.loss.cutmix_alpha=1.0")
    other = shown(tiny_run, *plain, *mixed)
    off = [name for name, clip in other.items() if OFF in clip.label]
    assert off == [name for name in ssv2 if name not in (*ALWAYS, "mixup", "CutMix")]
    assert other["random erasing"].name == "probability 0.25"
    assert (other["mixup"].name, other["CutMix"].name) == ("alpha 0.8", "alpha 1")
    flipping = shown(tiny_run, *plain, "--config.data.flip=0.3")["horizontal flip"]
    assert (flipping.label, flipping.name) == ("horizontal flip", "probability 0.3")


def test_the_crop_is_that_of_the_training_clip(tiny_run: "Run") -> None:
    config = flags.override(flags.load(SSV2), [*SMALL, "--config.data.rand_augment.n=0"])
    source = open_source(tiny_run.workdir / "moving_shapes" / "train")
    batch = next(train_batches(source, factory.clip_spec(config), batch_size=8, seed=config.seed))
    (row,) = np.flatnonzero(batch["id"] == 1)
    rows = shown(tiny_run)
    np.testing.assert_array_equal(rows["random resized crop"].frames, batch["video"][row, 0])
    # Frames of 32x32 at a short side of 24: the centre crop of 20 begins at pixel 2.
    whole = rows["as decoded"].frames
    assert whole.shape == (4, 24, 24, 3)
    np.testing.assert_array_equal(rows["centre crop"].frames, whole[:, 2:22, 2:22])


@pytest.mark.parametrize("m", [7, 25])
def test_operations_are_those_of_training_at_the_configs_magnitude(m: int, tiny_run: "Run") -> None:
    rows = shown(tiny_run, f"--config.data.rand_augment.m={m}")
    clip = rows["centre crop"].frames
    np.testing.assert_array_equal(rows["horizontal flip"].frames, clip[:, :, ::-1])
    for name in OPERATIONS.keys() - {"cutout"}:
        possible = {
            OPERATIONS[name](clip, m, np.random.default_rng(seed)).tobytes() for seed in range(20)
        }
        assert rows[name.replace("_", " ")].frames.tobytes() in possible, name
    cut = rows["cutout"].frames
    is_cut = (cut != clip).any(axis=(0, 3))
    # A square of m/48 of 20 pixels, or its part within the frame.
    assert 0 < is_cut.sum() <= (m / 48 * 20 + 1) ** 2
    assert (cut[:, is_cut] == 128).all()


def test_erasing_leaves_the_mean_colour(tiny_run: "Run") -> None:
    rows = shown(tiny_run)
    clip = rows["centre crop"].frames.astype(float)
    erased = rows["random erasing"].frames
    box = (erased == (124, 116, 104)).all(-1)
    assert 0.01 < box.mean() < 0.4
    assert (box == box[0]).all()
    np.testing.assert_array_equal(erased[~box], clip[~box])


def shares(clip: ShownClip) -> tuple[float, str, str]:
    """Parse the first share and the two classes of "mixup: 0.51 grow + 0.49 shrink"."""
    own, first, plus, rest, second = clip.label.partition(": ")[2].split()
    assert (plus, float(own) + float(rest)) == ("+", pytest.approx(1))
    return float(own), first, second


def test_mixtures_hold_both_clips_in_the_shares_of_their_label(tiny_run: "Run") -> None:
    rows = shown(tiny_run)
    clip = rows["centre crop"].frames.astype(float)
    partner = shown(tiny_run, examples=(6, 1))["centre crop"].frames
    own, *classes = shares(rows["mixup"])
    assert classes == [CLASSES[1], CLASSES[6]]
    assert 0.25 < own < 0.75, "an even one of many draws"
    expected = own * clip + (1 - own) * partner
    np.testing.assert_allclose(rows["mixup"].frames, expected, atol=0.005 * 255 + 0.5)
    own, *classes = shares(rows["CutMix"])
    assert classes == [CLASSES[1], CLASSES[6]]
    cut = rows["CutMix"].frames
    inside = (cut != clip).any(axis=(0, 3))
    np.testing.assert_array_equal(cut[:, inside], partner[:, inside])
    # Pixels that agree in all frames by chance make the box look smaller.
    assert inside.mean() == pytest.approx(1 - own, abs=0.02)


def test_the_seed_determines_all_draws(tiny_run: "Run") -> None:
    def pictures(*overrides: str) -> list[bytes]:
        return [clip.frames.tobytes() for clip in shown(tiny_run, *overrides).values()]

    assert pictures() == pictures()
    assert pictures("--config.seed=1") != pictures()


def test_frames_that_are_not_square_keep_their_aspect_ratio_on_a_sheet() -> None:
    wide = np.full((2, 16, 64, 3), 200, np.uint8)
    tall = np.full((2, 40, 20, 3), 100, np.uint8)
    square = np.zeros((2, 32, 32, 3), np.uint8)
    clips = [ShownClip(f, "jump", "a.mp4") for f in (wide, tall, square)]
    sheet = draw_sheet(clips, "title")
    # The shortest side is 16: rows of 128 pixels, each with a gap of 4.
    assert sheet.shape[0] == 2 * 18 + 4 + 3 * 132
    for value, (height, width) in ((200, (32, 128)), (100, (128, 64)), (0, (128, 128))):
        drawn = (sheet[40:, 308:440] == value).all(-1)
        assert (drawn.any(1).sum(), drawn.any(0).sum()) == (height, width)


def script(*arguments: str) -> int:
    return runpy.run_path(str(ROOT / "scripts" / "show_clips.py"))["run"](arguments)


def test_script_writes_the_sheet(
    tiny_run: "Run", tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = (
        "--config.data.kind=files",
        f"--config.data.train={tiny_run.workdir}/moving_shapes/train",
    )
    arguments = (
        f"--config={SSV2}",
        *SMALL,
        *data,
        f"--out={tmp_path}",
        "--augmentations",
        "--count=1",
    )
    assert script(*arguments) == 0
    assert f"{tmp_path / 'augmentations.png'}\n" in capsys.readouterr().out
    sheet = cv2.imread(str(tmp_path / "augmentations.png"))
    # 26 rows of 6 times 20 pixels.
    assert sheet.shape[0] == 2 * 18 + 4 + 26 * 124
    assert script(*arguments, "--split=eval") == 2
    assert "--split eval came" in capsys.readouterr().err
