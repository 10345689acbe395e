"""Kinetics-400: the published recipes, 8 GPUs x 8 clips = batch 64, from 2D ImageNet weights.

Paper: Liu et al., Video Swin Transformer, CVPR 2022 (arXiv:2106.13230), sections 4.1 and 4.2.

    python -m vswin_jax.main --config experiments/k400.py:variant=base,pretrain=22k \
        --workdir runs/k400_base_22k --config.data.train=train.txt --config.data.eval=val.txt \
        --config.init_from=swin_base_patch4_window7_224_22k

Expected top-1 / top-5 on validation, %:

    variant=tiny                            78.8 / 93.6   4x3 views
    variant=small                           80.6 / 94.5   4x3
    variant=base                            80.6 / 94.6   4x3
    variant=base,pretrain=22k               82.7 / 95.5   4x3
    variant=large,pretrain=22k              83.1 / 95.9   4x3
    variant=large,pretrain=22k,size=384     84.9 / 96.7   10x5

The first four are rows of the original repository's README, with the settings of its configs:
AdamW, 30 epochs of which 2.5 are warm-up, a learning rate of the head 10 times the backbone's.
Swin-L was never released: its accuracies are the paper's, its settings those of the Expedit fork,
which reports 84.7 / 96.6 for its own 384 run.

mmaction2 1.x trained the first three again with its own groups (`--config.optim.groups=intended`):
78.90 / 93.77, 80.54 / 94.46 (drop_path_rate 0.2 for small) and 80.57 / 94.49. Its recipe of Swin-L
at 224 has learning rate 1e-3 and drop_path_rate 0.4, and reaches 83.46 / 95.91.
"""

from dataclasses import dataclass

from ml_collections import ConfigDict

from vswin_jax.config import base_config, parse_argument, runlocal
from vswin_jax.errors import unknown_name

RELEASES = "https://github.com/SwinTransformer/storage/releases/download/v1.0.0"


@dataclass(frozen=True)
class Recipe:
    """One row of the table: what differs between the published runs."""

    learning_rate: float
    weight_decay: float
    drop_path_rate: float
    grad_accum_steps: int
    views_per_pass: int
    weights: str


RECIPES = {
    ("tiny", "1k", "224"): Recipe(1e-3, 0.02, 0.1, 4, 4, "swin_tiny_patch4_window7_224.pth"),
    ("small", "1k", "224"): Recipe(1e-3, 0.02, 0.1, 8, 4, "swin_small_patch4_window7_224.pth"),
    ("base", "1k", "224"): Recipe(1e-3, 0.05, 0.3, 8, 4, "swin_base_patch4_window7_224.pth"),
    ("base", "22k", "224"): Recipe(3e-4, 0.05, 0.2, 8, 2, "swin_base_patch4_window7_224_22k.pth"),
    ("large", "22k", "224"): Recipe(3e-4, 0.05, 0.2, 8, 2, "swin_large_patch4_window7_224_22k.pth"),
    ("large", "22k", "384"): Recipe(
        3e-4, 0.05, 0.5, 8, 1, "swin_large_patch4_window12_384_22k.pth"
    ),
}


def get_config(argument: str = "") -> ConfigDict:
    chosen = parse_argument(
        argument,
        {
            "variant": ("tiny", "small", "base", "large"),
            "pretrain": ("1k", "22k"),
            "size": ("224", "384"),
        },
    )
    config = base_config()
    variant, pretrain, size = chosen["variant"], chosen["pretrain"], chosen["size"]
    apply_recipe(config, find_recipe(variant, pretrain, size))
    config.name = f"k400_swin_{variant}_{size}_{pretrain}"
    config.model.name = f"swin_{variant}"
    config.model.num_classes = 400
    config.model.window_size = (8, 7, 7)
    if size == "384":
        stretch_to_384(config)
    return runlocal(config) if chosen["runlocal"] else config


def find_recipe(variant: str, pretrain: str, size: str) -> Recipe:
    if (variant, pretrain, size) not in RECIPES:
        known = (f"variant={v},pretrain={p},size={s}" for v, p, s in RECIPES)
        asked = f"variant={variant},pretrain={pretrain},size={size}"
        raise unknown_name("published recipe", asked, known)
    return RECIPES[variant, pretrain, size]


def apply_recipe(config: ConfigDict, recipe: Recipe) -> None:
    config.init_published = f"{RELEASES}/{recipe.weights}"
    config.model.patch_size = (2, 4, 4)
    config.model.drop_path_rate = recipe.drop_path_rate
    config.train.grad_accum_steps = recipe.grad_accum_steps
    config.optim.learning_rate = recipe.learning_rate
    config.optim.weight_decay = recipe.weight_decay
    config.eval.views_per_pass = recipe.views_per_pass


def stretch_to_384(config: ConfigDict) -> None:
    config.model.window_size = (8, 12, 12)
    config.data.resize = 416
    config.data.size = 384
    config.data.rand_augment.n = 4
    config.train.duration = "60 epochs"
    config.loss.label_smoothing = 0.1
    config.loss.random_erasing = 0.25
    config.eval.num_clips = 10
    config.eval.num_crops = 5  # left, right, middle, the whole frame squashed, its centre
    config.eval.resize = 384
