"""Every published row against the original repository's configs and the Expedit fork's."""

import ast
import runpy
from dataclasses import dataclass
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from vswin_jax.config.rules import check
from vswin_jax.errors import InputError

EXPERIMENTS = Path(__file__).parents[1] / "experiments"


# experiment, head rate, weight decay, drop path, window, epochs, classes, micro-batches, views,
# views a pass, pixels, weights
TABLE = """
k400                                     1e-3 .02 .1  8,7,7   30 400 4 4x3  4 224 swin_tiny_patch4_window7_224
k400:variant=small                       1e-3 .02 .1  8,7,7   30 400 8 4x3  4 224 swin_small_patch4_window7_224
k400:variant=base                        1e-3 .05 .3  8,7,7   30 400 8 4x3  4 224 swin_base_patch4_window7_224
k400:variant=base,pretrain=22k           3e-4 .05 .2  8,7,7   30 400 8 4x3  2 224 swin_base_patch4_window7_224_22k
k400:variant=large,pretrain=22k          3e-4 .05 .2  8,7,7   30 400 8 4x3  2 224 swin_large_patch4_window7_224_22k
k400:variant=large,pretrain=22k,size=384 3e-4 .05 .5  8,12,12 60 400 8 10x5 1 384 swin_large_patch4_window12_384_22k
k600                                     3e-4 .05 .2  8,7,7   30 600 8 4x3  2 224 swin_base_patch4_window7_224_22k
k600:variant=large                       3e-4 .05 .4  8,12,12 60 600 8 10x5 1 384 swin_large_patch4_window12_384_22k
ssv2                                     3e-4 .05 .4  16,7,7  60 174 8 1x3  2 224 swin_base_patch244_window1677_kinetics400_22k
"""  # noqa: E501


@dataclass(frozen=True)
class Row:
    experiment: str
    learning_rate: float
    weight_decay: float
    drop_path: float
    window: tuple[int, ...]
    epochs: int
    classes: int
    grad_accum_steps: int
    views: tuple[int, ...]
    views_per_pass: int
    size: int
    weights: str

    @classmethod
    def parse(cls, line: str) -> "Row":
        name, rate, decay, drop, window, epochs, classes, micro, views, group, size, weights = (
            line.split()
        )
        return cls(
            name,
            float(rate),
            float(decay),
            float(drop),
            tuple(map(int, window.split(","))),
            int(epochs),
            int(classes),
            int(micro),
            tuple(map(int, views.split("x"))),
            int(group),
            int(size),
            f"{weights}.pth",
        )


ROWS = [Row.parse(line) for line in TABLE.strip().splitlines()]
ALL = [*(row.experiment for row in ROWS), "quickstart", "finetune_folder:variant=base"]


def load(experiment: str) -> ConfigDict:
    name, _, argument = experiment.partition(":")
    return runpy.run_path(str(EXPERIMENTS / f"{name}.py"))["get_config"](argument)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.experiment)
def test_published_row(row: Row) -> None:
    config = load(row.experiment)
    check(config)
    optim, model = config.optim, config.model
    assert (optim.learning_rate, optim.weight_decay) == (row.learning_rate, row.weight_decay)
    assert (model.drop_path_rate, model.window_size) == (row.drop_path, row.window)
    assert (model.num_classes, model.patch_size) == (row.classes, (2, 4, 4))
    assert config.train.duration == f"{row.epochs} epochs"
    assert (config.train.batch_size, config.train.grad_accum_steps) == (64, row.grad_accum_steps)
    assert (config.eval.num_clips, config.eval.num_crops) == row.views
    assert (config.eval.views_per_pass, config.eval.resize) == (row.views_per_pass, row.size)
    assert (config.data.size, config.data.num_frames) == (row.size, 32)
    assert config.init == "pretrained"
    assert config.init_published.endswith("/" + row.weights)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.experiment)
def test_what_all_rows_share(row: Row) -> None:
    config = load(row.experiment)
    optim = config.optim
    assert (optim.b1, optim.b2, optim.eps, optim.clip_norm) == (0.9, 0.999, 1e-8, 0.0)
    assert (optim.groups, optim.backbone_multiplier) == ("literal", 0.1)
    assert (optim.schedule, optim.warmup, optim.warmup_ratio) == (
        "epoch_cosine",
        "2.5 epochs",
        0.1,
    )
    assert (config.loss.mixup_alpha, config.loss.cutmix_alpha) == (0.0, 0.0)
    assert config.train.ema_decay == 0.0
    assert config.data.frame_interval == 2
    assert config.data.resize == {224: 256, 384: 416}[row.size]


@pytest.mark.parametrize(
    ("experiment", "flip", "operations", "smoothing", "erasing", "sampling"),
    [
        ("k400", 0.5, 0, 0.0, 0.0, "dense"),
        ("k400:variant=large,pretrain=22k,size=384", 0.5, 4, 0.1, 0.25, "dense"),
        ("k600:variant=large", 0.5, 4, 0.1, 0.25, "dense"),
        ("ssv2", 0.0, 4, 0.1, 0.25, "uniform"),
    ],
)
def test_augmentation(
    experiment: str,
    flip: float,
    operations: int,
    smoothing: float,
    erasing: float,
    sampling: str,
) -> None:
    config = load(experiment)
    assert (config.data.flip, config.data.sampling) == (flip, sampling)
    assert (config.data.rand_augment.n, config.data.rand_augment.m) == (operations, 7)
    assert (config.loss.label_smoothing, config.loss.random_erasing) == (smoothing, erasing)


def test_every_row_has_its_own_name() -> None:
    names = [load(row.experiment).name for row in ROWS]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("experiment", ALL)
def test_runlocal_shrinks_it(experiment: str) -> None:
    config = load(f"{experiment},runlocal" if ":" in experiment else f"{experiment}:runlocal")
    check(config)
    assert (config.data.kind, config.init, config.init_from) == ("moving_shapes", "scratch", "")
    assert config.train.batch_size <= 4
    assert config.data.size <= 64
    assert config.optim.learning_rate == load(experiment).optim.learning_rate


def test_row_that_was_never_published() -> None:
    with pytest.raises(InputError, match=r"variant=tiny,pretrain=22k.*known ones are"):
        load("k400:variant=tiny,pretrain=22k")


def test_finetune_folder_finds_the_held_out_split(tmp_path: Path) -> None:
    (tmp_path / "val").mkdir()
    assert load(f"finetune_folder:root={tmp_path}").data.eval == str(tmp_path / "val")
    (tmp_path / "val").rmdir()
    assert load(f"finetune_folder:root={tmp_path}").data.eval == str(tmp_path / "test")


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.glob("*.py")), ids=lambda path: path.stem)
def test_docstring_gives_paper_and_command(path: Path) -> None:
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    assert "arXiv:2106.13230" in text
    assert f"python -m vswin_jax.main --config experiments/{path.stem}.py" in text
