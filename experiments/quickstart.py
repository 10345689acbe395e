"""Quickstart: a small model learns motion from generated H.264 files, on a CPU, from scratch.

Paper: Liu et al., Video Swin Transformer, CVPR 2022 (arXiv:2106.13230); the settings are ours.

    python -m vswin_jax.main --config experiments/quickstart.py --workdir runs/quickstart

The eight classes of moving_shapes differ only in motion. The control run, whose clips repeat their
first frame, has nothing to learn from and stays at chance (12.5 %):

    ... --workdir runs/control --config.data.repeat_first_frame=true
"""

from ml_collections import ConfigDict

from vswin_jax.config import base_config, parse_argument, runlocal


def get_config(argument: str = "") -> ConfigDict:
    chosen = parse_argument(argument, {})
    config = base_config()
    config.name = "quickstart"
    config.init = "scratch"

    config.model.dtype = "float32"
    config.model.embed_dim = 32
    config.model.depths = (2, 2)
    config.model.num_heads = (2, 4)
    config.model.window_size = (2, 8, 8)
    config.model.patch_size = (4, 4, 4)  # four frames show a direction
    config.model.drop_path_rate = 0.0
    config.model.head_dropout_rate = 0.0
    config.model.kernel_init = "lecun"  # a model this narrow does not learn from "reference"

    config.data.kind = "moving_shapes"
    config.data.processes = 0  # its videos are so small that threads keep up
    config.data.num_frames = 8
    config.data.frame_interval = 2
    config.data.resize = config.data.size = 32
    config.data.scale = config.data.ratio = (1.0, 1.0)  # the whole picture
    config.data.flip = 0.0  # a mirrored move_left is a move_right
    config.data.shapes.train_scenes = 500
    config.data.shapes.test_scenes = 50
    config.data.shapes.num_frames = 24

    config.train.batch_size = 32
    config.train.duration = "2400 steps"
    config.train.log_every = "50 steps"
    config.train.eval_every = "600 steps"
    config.train.checkpoint_every = "300 steps"

    config.optim.learning_rate = 2e-3
    config.optim.weight_decay = 0.05
    config.optim.b2 = 0.98
    config.optim.groups = "intended"
    config.optim.backbone_multiplier = 1.0  # nothing is pretrained here
    config.optim.schedule = "cosine"
    config.optim.warmup = "240 steps"
    config.optim.clip_norm = 1.0

    config.eval.batch_size = 25
    config.eval.num_clips = 1
    config.eval.num_crops = 1
    config.eval.resize = 32
    config.eval.views_per_pass = 1
    return runlocal(config) if chosen["runlocal"] else config
