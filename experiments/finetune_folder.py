"""Your own videos: a folder with train/CLASS/*.mp4 and val/CLASS/*.mp4 (or test/CLASS/*.mp4).

Paper: Liu et al., Video Swin Transformer, CVPR 2022 (arXiv:2106.13230); the settings are ours.

    python -m vswin_jax.main --config experiments/finetune_folder.py:root=my_videos \
        --workdir runs/my_videos \
        --config.init_from=swin_tiny_patch244_window877_kinetics400_1k

`variant=small` and `variant=base` take the larger models. The classes are the sub-folders' names.
The accuracy to expect depends on the videos. `--config.init=scratch` trains from random weights,
which needs far more videos than fine-tuning does.

Videos with several classes each (as in Charades) are lists, `clip.mp4 run;jump` or CSV or JSON:

    --config.data.multi_label=true --config.data.train=train.csv --config.data.eval=val.csv
"""

import os

from ml_collections import ConfigDict

from vswin_jax.config import base_config, parse_argument, runlocal

RELEASES = "https://github.com/SwinTransformer/storage/releases/download/v1.0.4"
WEIGHTS = {
    "tiny": "swin_tiny_patch244_window877_kinetics400_1k.pth",
    "small": "swin_small_patch244_window877_kinetics400_1k.pth",
    "base": "swin_base_patch244_window877_kinetics400_22k.pth",
}


def get_config(argument: str = "") -> ConfigDict:
    chosen = parse_argument(argument, {"root": None, "variant": tuple(WEIGHTS)})
    config = base_config()
    config.name = "finetune_folder"
    config.init_published = f"{RELEASES}/{WEIGHTS[chosen['variant']]}"
    config.model.name = f"swin_{chosen['variant']}"
    config.model.patch_size = (2, 4, 4)
    config.model.window_size = (8, 7, 7)
    config.model.drop_path_rate = 0.1
    if chosen["root"]:
        use_folder(config, chosen["root"])

    # The values of 400 videos and more; fewer get smaller batches and more epochs, but for what the
    # command line names.
    config.train.fit_to_videos = not chosen["runlocal"]
    config.train.batch_size = 16
    config.train.grad_accum_steps = 4
    config.train.duration = "12 epochs"
    config.train.eval_every = "2 epochs"

    config.optim.learning_rate = 3e-4  # about a quarter of k400.py's, as the batch is
    config.optim.weight_decay = 0.05
    config.optim.groups = "intended"
    config.optim.schedule = "cosine"
    config.optim.warmup = "1 epochs"
    config.optim.clip_norm = 5.0
    config.loss.label_smoothing = 0.1
    return runlocal(config) if chosen["runlocal"] else config


def use_folder(config: ConfigDict, root: str) -> None:
    held_out = "val" if os.path.isdir(os.path.join(root, "val")) else "test"
    config.data.train = os.path.join(root, "train")
    config.data.eval = os.path.join(root, held_out)
