"""The settings of a run: every field with its default, and the argument of `--config`.

The defaults are what the published Kinetics-400 recipes have in common (Video Swin,
arXiv:2106.13230, section 4.1), so an experiment file states only the settings that differ.
"""

import difflib
import os
from collections.abc import Mapping, Sequence

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from vswin_jax.errors import InputError, unknown_name

RUNLOCAL = "runlocal"


def base_config() -> ConfigDict:
    """Return a config with every field, locked: a misspelt name fails where it is written."""
    config = ConfigDict()
    config.name = ""
    config.seed = 0
    config.init = "pretrained"  # reads init_from; or "scratch", which is never assumed
    config.init_from = ""  # a file or directory, a released checkpoint's name, or a URL
    config.init_published = ""  # URL of the recipe's own starting weights, a value for init_from
    config.model = _model()
    config.data = _data()
    config.train = _train()
    config.optim = _optim()
    config.loss = _loss()
    config.eval = _eval()
    config.mesh = _mesh()
    return config.lock()


def _model() -> ConfigDict:
    model = ConfigDict()
    model.name = "swin_tiny"
    model.num_classes = placeholder(int)  # None: the number of classes of the training set
    model.dtype = "bfloat16"  # compute dtype; parameters, logits and softmax stay float32
    # For all of the following, None is the value of the named variant.
    model.embed_dim = placeholder(int)
    model.depths = placeholder(tuple)  # blocks in each stage
    model.num_heads = placeholder(tuple)
    model.window_size = placeholder(tuple)  # tokens: (time, height, width)
    model.patch_size = placeholder(tuple)  # pixels: (time, height, width)
    model.patch_norm = placeholder(bool)
    model.mlp_ratio = placeholder(float)
    model.qkv_bias = placeholder(bool)
    model.qk_scale = placeholder(float)
    model.drop_rate = placeholder(float)
    model.attn_drop_rate = placeholder(float)
    model.drop_path_rate = placeholder(float)
    model.head_dropout_rate = placeholder(float)
    model.frozen_stages = placeholder(int)  # -1: none; 0: the patch embedding; n: n stages too
    model.kernel_init = placeholder(str)
    model.remat = placeholder(str)  # rematerialised: none, attention, dots, mlp or block
    model.relative_position = placeholder(str)
    model.attention = placeholder(str)
    # Implementation of the layers other than attention: auto, xla, chunked, pallas_tpu.
    model.tokenwise = placeholder(str)
    # Order of the tokens between blocks: windows (window order), or map (raster order).
    model.token_order = placeholder(str)
    return model


def _data() -> ConfigDict:
    data = ConfigDict()
    data.kind = "files"  # or "moving_shapes", videos that the run writes itself
    data.train = ""  # annotation file, folder with a folder per class, or DIRECTORY:SPLIT of TFDS
    data.eval = ""
    data.root = ""  # parent of the paths in an annotation file, of TFDS data, of moving_shapes
    data.format = "auto"
    data.label_names = ""  # a text file with one class name a line, in label order
    data.multi_label = False  # True: a video has any number of classes, `a.mp4 run;jump` in a list
    data.num_frames = 32
    data.frame_interval = 2  # a clip takes every second frame of the video
    data.fps = 0.0  # frame rate at which clips are sampled; 0: the frames of the file as they are
    data.sampling = "dense"  # consecutive frames; or "uniform", over the whole video (SSv2)
    data.resize = 256  # pixels of the short side before the training crop
    data.size = 224  # pixels of the square that the model sees
    data.scale = (0.08, 1.0)  # area of the random resized crop, as a fraction of the frame's
    data.ratio = (3 / 4, 4 / 3)  # width / height of the random resized crop
    data.flip = 0.5  # probability of a horizontal flip
    # "": mirrored clips keep their labels, as in the published recipes. "left_right": classes whose
    # names differ in the words left and right exchange labels. Or a text file of class pairs, two
    # names a line with a tab between them.
    data.flip_labels = ""
    data.repeat_first_frame = False  # control experiment: a clip without motion
    data.rand_augment = ConfigDict({"n": 0, "m": 7})  # operations (0: off), magnitude of 30
    # 0: every example once an epoch. 1: every class equally often. Between: a class of n examples
    # in proportion to n**(1 - class_balance), so 0.5 is square-root sampling. Epochs keep their
    # length.
    data.class_balance = 0.0
    data.aug_repeats = 1  # clips of each video in a batch; an epoch grows by the same factor
    data.processes = -1  # decoding processes; -1: one per core; 0: threads decode instead
    data.threads = 0  # threads that decode, or feed the processes; 0: chosen automatically
    data.prefetch = 2  # batches prepared ahead of the training step
    # Unreadable videos are replaced. The run ends if their fraction is clearly above this one.
    data.max_bad_fraction = 0.05
    # For moving_shapes alone: eight videos per scene, frames of size x size pixels.
    data.shapes = ConfigDict(
        {"train_scenes": 300, "test_scenes": 40, "seed": 0, "size": 64, "num_frames": 24, "fps": 12}
    )
    return data


def _train() -> ConfigDict:
    # Durations are written as "30 epochs", "1000 steps" or "64000 examples".
    train = ConfigDict()
    train.batch_size = 64  # clips per step, over all devices and micro-batches
    train.duration = "30 epochs"
    train.grad_accum_steps = 1  # micro-batches per step
    train.log_every = "20 steps"
    train.eval_every = "5 epochs"  # with one centred clip per video
    train.checkpoint_every = "1 epochs"
    train.max_to_keep = 2  # latest checkpoints, in addition to the best one
    train.ema_decay = 0.0  # 0: no moving average of the parameters
    train.max_bad_steps = 20  # consecutive steps with a non-finite loss or gradient
    train.hang_after = 10.0  # minutes without progress until the log shows all stacks; 0: never
    # Persistent compilation cache: "workdir", "off" or a directory that runs may share.
    # JAX_COMPILATION_CACHE_DIR overrides it.
    train.compilation_cache = "workdir"
    # True: on a GPU XLA times many kernels and takes the fastest. That costs minutes of compiling,
    # and another machine may choose other kernels, whose losses differ in the last bits.
    train.autotune = False
    return train


def _optim() -> ConfigDict:
    optim = ConfigDict()
    optim.learning_rate = 1e-3  # of the head; for the backbone, `groups` decides what is multiplied
    optim.weight_decay = 0.02
    optim.b1 = 0.9
    optim.b2 = 0.999
    optim.eps = 1e-8
    optim.groups = "literal"  # parameter groups as the original code applied them, or "intended"
    optim.backbone_multiplier = 0.1  # of the learning rate in the backbone
    optim.clip_norm = 0.0  # global gradient norm; 0: no clipping
    optim.moment_dtype = "float32"  # of the first moment, or "bfloat16"
    optim.offload = False  # True: moments are kept in host memory
    optim.schedule = "epoch_cosine"  # constant within an epoch, as the original; or "cosine"
    optim.warmup = "2.5 epochs"
    optim.warmup_ratio = 0.1
    return optim


def _loss() -> ConfigDict:
    return ConfigDict(
        {"label_smoothing": 0.0, "mixup_alpha": 0.0, "cutmix_alpha": 0.0, "random_erasing": 0.0}
    )


def _eval() -> ConfigDict:
    evaluation = ConfigDict()
    evaluation.batch_size = 8  # videos, each with num_clips * num_crops views
    evaluation.num_clips = 4  # along time
    evaluation.num_crops = 3  # along the longer side
    evaluation.resize = 224  # pixels of the short side
    evaluation.views_per_pass = 4  # views of each video in one forward pass
    evaluation.checkpoint = "latest"  # the one that --mode=evaluate scores; or "best"
    return evaluation


def _mesh() -> ConfigDict:
    mesh = ConfigDict({"data": -1, "fsdp": 1, "model": 1})  # devices per axis; -1: all others
    mesh.window = 1  # devices that share each clip
    mesh.window_over = "time"  # the axis of the clip that they divide; or "height"
    return mesh


def parse_argument(
    argument: str, allowed: Mapping[str, Sequence[str] | None]
) -> dict[str, str | bool]:
    """Parse what follows the colon of `--config FILE:ARGUMENT`, such as "variant=base,runlocal".

    `allowed` maps each key to its values, the first of which is the default, or to None for any
    text (default ""), in which commas may occur and a leading `~` is the home directory. The result
    has every key, and `runlocal` as a bool.

    Raises:
      InputError: an unknown key or value; the message lists the known ones.
    """
    chosen: dict[str, str | bool] = {k: v[0] if v else "" for k, v in allowed.items()}
    chosen[RUNLOCAL] = False
    for part in filter(None, map(str.strip, _split_parts(argument, allowed))):
        key, equals, value = part.partition("=")
        if key == RUNLOCAL and not equals:
            chosen[RUNLOCAL] = True
            continue
        chosen[key] = _allowed_value(key, value, allowed)
    return chosen


def _split_parts(argument: str, allowed: Mapping[str, Sequence[str] | None]) -> list[str]:
    """Split at the commas, except those within a value that may be any text, such as a path."""
    parts: list[str] = []
    for part in argument.split(","):
        previous = parts[-1].partition("=")[0].strip() if parts else ""
        is_text = previous in allowed and allowed[previous] is None
        if is_text and not _resembles_key(part, allowed):
            parts[-1] += f",{part}"
        else:
            parts.append(part)
    return parts


def _resembles_key(part: str, allowed: Mapping[str, Sequence[str] | None]) -> bool:
    """Return True for KEY=VALUE and `runlocal`, and also for misspelt ones."""
    key, equals, _ = (text.strip() for text in part.partition("="))
    names = list(allowed) if equals else [RUNLOCAL]
    return key in allowed or bool(difflib.get_close_matches(key, names, cutoff=0.8))


def _allowed_value(key: str, value: str, allowed: Mapping[str, Sequence[str] | None]) -> str:
    if key not in allowed:
        raise unknown_name("argument of --config", key, [*allowed, RUNLOCAL])
    values = allowed[key]
    if values is not None and value not in values:
        raise unknown_name(f"value of {key} in --config", value, values)
    if not value:
        raise InputError(f"Expected {key}=VALUE after the colon of --config but no value came.")
    return value if values else os.path.expanduser(value)


def runlocal(config: ConfigDict) -> ConfigDict:
    """Shrink any config to a few steps on a CPU with moving_shapes.

    The optimizer, losses, augmentation, sampling and kinds of test views stay the same, so a short
    run shows that a recipe works before it gets a large machine.
    """
    config.update(
        {
            "init": "scratch",
            "init_from": "",
            "model": _RUNLOCAL_MODEL,
            "data": _RUNLOCAL_DATA,
            "train": _RUNLOCAL_TRAIN,
        }
    )
    config.model.num_classes = None
    config.optim.warmup = "1 steps"
    config.eval.update(
        batch_size=4,
        resize=config.data.size,
        num_clips=min(2, config.eval.num_clips),
        views_per_pass=1,
    )
    return config


_RUNLOCAL_MODEL = {
    "name": "swin_tiny",
    "dtype": "float32",
    "embed_dim": 8,
    "depths": (2, 2),
    "num_heads": (1, 2),
    "window_size": (2, 4, 4),
    "patch_size": (2, 4, 4),
}
_RUNLOCAL_DATA = {
    "kind": "moving_shapes",
    "processes": 0,
    "num_frames": 8,
    "frame_interval": 1,
    "resize": 36,
    "size": 32,
    "label_names": "",
    "shapes": {"train_scenes": 2, "test_scenes": 1, "size": 40, "num_frames": 12},
}
_RUNLOCAL_TRAIN = {
    "batch_size": 4,
    "duration": "4 steps",
    "grad_accum_steps": 2,
    "log_every": "1 steps",
    "eval_every": "2 steps",
    "checkpoint_every": "2 steps",
}
