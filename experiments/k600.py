"""Kinetics-600: the published recipes, 8 GPUs x 8 clips = batch 64, from 2D ImageNet-22K weights.

Paper: Liu et al., Video Swin Transformer, CVPR 2022 (arXiv:2106.13230), section 4.2.

    python -m vswin_jax.main --config experiments/k600.py:variant=base \
        --workdir runs/k600_base --config.data.train=train.txt --config.data.eval=val.txt \
        --config.init_from=swin_base_patch4_window7_224_22k

Expected top-1 / top-5 on validation, %:

    variant=base      84.0 / 96.5   4x3 views    (the original repository's README)
    variant=large     86.1 / 97.3   10x5 views   (at 384 pixels; the paper, the Expedit fork)

The settings of base are those of the original repository. It never released Swin-L, whose settings
here are those of the Expedit fork.
"""

from ml_collections import ConfigDict

from vswin_jax.config import base_config, parse_argument, runlocal

RELEASES = "https://github.com/SwinTransformer/storage/releases/download/v1.0.0"


def get_config(argument: str = "") -> ConfigDict:
    chosen = parse_argument(argument, {"variant": ("base", "large"), "pretrain": ("22k",)})
    config = base_config()
    config.name = f"k600_swin_{chosen['variant']}_22k"
    config.init_published = f"{RELEASES}/swin_base_patch4_window7_224_22k.pth"

    config.model.name = f"swin_{chosen['variant']}"
    config.model.num_classes = 600
    config.model.patch_size = (2, 4, 4)
    config.model.window_size = (8, 7, 7)
    config.model.drop_path_rate = 0.2

    config.train.grad_accum_steps = 8
    config.optim.learning_rate = 3e-4
    config.optim.weight_decay = 0.05
    config.eval.views_per_pass = 2
    if chosen["variant"] == "large":
        make_large(config)
    return runlocal(config) if chosen["runlocal"] else config


def make_large(config: ConfigDict) -> None:
    config.init_published = f"{RELEASES}/swin_large_patch4_window12_384_22k.pth"
    config.model.window_size = (8, 12, 12)
    config.model.drop_path_rate = 0.4
    config.data.resize = 416
    config.data.size = 384
    config.data.rand_augment.n = 4
    config.train.duration = "60 epochs"
    config.loss.label_smoothing = 0.1
    config.loss.random_erasing = 0.25
    config.eval.num_clips = 10
    config.eval.num_crops = 5  # left, right, middle, the whole frame squashed, its centre
    config.eval.resize = 384
    config.eval.views_per_pass = 1
