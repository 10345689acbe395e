"""The settings of a run: every field with its default, and the argument of `--config`.

The defaults are the published Kinetics-400 recipe's common part (Video Swin, arXiv:2106.13230,
section 4.1), so an experiment file states only what its row of the table changes.
"""

from collections.abc import Mapping, Sequence

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from vswin_jax.errors import InputError, unknown_name

RUNLOCAL = "runlocal"


def base_config() -> ConfigDict:
    """Every field there is, locked: a misspelt one fails where it is written."""
    config = ConfigDict()
    config.name = ""
    config.seed = 0
    config.init = "pretrained"  # "pretrained" reads init_from, "scratch" must be said out loud
    config.init_from = ""  # a file or directory, a released checkpoint's name, or a URL
    config.init_published = ""  # the URL of the recipe's own starting weights, for init_from
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
    model.num_classes = placeholder(int)  # None: as many as the training set has
    model.dtype = "bfloat16"  # of the arithmetic; parameters, logits and softmax stay float32
    # None in the rest means: what the named variant says.
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
    model.frozen_stages = placeholder(int)  # -1 none, 0 the patch embedding, n also n stages
    model.kernel_init = placeholder(str)
    model.remat = placeholder(str)  # what is computed twice: none, attention, dots, mlp, block
    model.relative_position = placeholder(str)
    model.attention = placeholder(str)
    model.tokenwise = placeholder(str)  # all but attention: auto, xla, chunked, or pallas_tpu
    model.token_order = placeholder(str)  # between blocks: windows, or map as in the reference
    return model


def _data() -> ConfigDict:
    data = ConfigDict()
    data.kind = "files"  # or "moving_shapes", which the run writes itself
    data.train = ""  # annotation file, folder with one of each class, or DIRECTORY:SPLIT of TFDS
    data.eval = ""
    data.root = ""  # of the paths in an annotation file, of TFDS's data sets, of moving_shapes
    data.format = "auto"
    data.label_names = ""  # a text file with one class name a line, in label order
    data.multi_label = False  # True: each video has a set of classes, `a.mp4 run;jump` in a list
    data.num_frames = 32
    data.frame_interval = 2  # frames of the file from one frame of the clip to the next
    data.fps = 0.0  # frames a second that clips are sampled at, 0: all frames of the file
    data.sampling = "dense"  # consecutive frames (Kinetics), or "uniform": over the whole video
    data.resize = 256  # pixels of the short side before the training crop
    data.size = 224  # pixels of the square that the model sees
    data.area = (0.08, 1.0)  # of the random resized crop, as a share of the frame
    data.aspect = (3 / 4, 4 / 3)
    data.flip = 0.5  # probability
    # Mirrored clips keep their labels as in the published recipes (""), or classes that differ in
    # the words left and right exchange them ("left_right"), or those that a text file pairs, two
    # class names a line with a tab between them.
    data.flip_labels = ""
    data.repeat_first_frame = False  # control experiment: a clip without motion
    data.rand_augment = ConfigDict({"n": 0, "m": 7})  # operations a clip (0: off), strength of 30
    # 0: every example once an epoch, 1: every class as often, between: a class of n examples as
    # often as n**(1 - class_balance) says; an epoch stays as long. 0.5 weighs by square roots.
    data.class_balance = 0.0
    data.repeats = 1  # clips of each video in the same batch; an epoch has as many times more clips
    data.processes = -1  # that decode, -1: one a core, 0: none, and the threads do
    data.threads = 0  # that decode or keep the processes busy, 0: chosen
    data.prefetch = 2  # batches
    data.max_bad_fraction = 0.05  # of unreadable videos, replaced; clearly more end the run
    # Of moving_shapes alone: eight videos a scene, square pictures in pixels.
    data.shapes = ConfigDict(
        {"train_scenes": 300, "test_scenes": 40, "seed": 0, "size": 64, "num_frames": 24, "fps": 12}
    )
    return data


def _train() -> ConfigDict:
    # Durations are said as "30 epochs", "1000 steps" or "64000 examples".
    train = ConfigDict()
    train.batch_size = 64  # clips a step over all devices, micro-batches included
    train.duration = "30 epochs"
    train.accumulate = 1  # micro-batches a step
    train.log_every = "20 steps"
    train.eval_every = "5 epochs"  # one centred clip a video
    train.checkpoint_every = "1 epochs"
    train.keep = 2  # latest checkpoints, the best one aside
    train.ema_decay = 0.0  # 0: no moving average of the parameters
    train.max_bad_steps = 20  # steps in a row with a loss or gradient that is not finite
    train.hang_after = 10.0  # minutes without progress until the log says where all are, 0: never
    # Where compiled programs are kept for the next start: "workdir", "off" or a directory that
    # runs may share. JAX_COMPILATION_CACHE_DIR comes before it.
    train.compilation_cache = "workdir"
    # True: on a GPU the compiler times many kernels and takes the fastest, which costs minutes, and
    # another machine's choice may give losses that differ in the last bits.
    train.autotune = False
    return train


def _optim() -> ConfigDict:
    optim = ConfigDict()
    optim.learning_rate = 1e-3  # of the head; the backbone's is multiplied as `groups` says
    optim.weight_decay = 0.02
    optim.b1 = 0.9
    optim.b2 = 0.999
    optim.eps = 1e-8
    optim.groups = "literal"  # as the original code applied them, or "intended" as the paper says
    optim.backbone_multiplier = 0.1
    optim.clip_norm = 0.0  # of the whole gradient, 0: off
    optim.moment_dtype = "float32"  # of the first moment, or "bfloat16"
    optim.offload = False  # True: the moments live in the host's memory
    optim.schedule = "epoch_cosine"  # piecewise constant as the original, or "cosine" a step
    optim.warmup = "2.5 epochs"
    optim.warmup_ratio = 0.1
    return optim


def _loss() -> ConfigDict:
    return ConfigDict(
        {"label_smoothing": 0.0, "mixup_alpha": 0.0, "cutmix_alpha": 0.0, "erasing": 0.0}
    )


def _eval() -> ConfigDict:
    evaluation = ConfigDict()
    evaluation.batch_size = 8  # videos, each with clips * crops views
    evaluation.clips = 4  # along time
    evaluation.crops = 3  # along the longer side
    evaluation.resize = 224  # pixels of the short side
    evaluation.views_per_pass = 4  # views of every video that go through the model together
    evaluation.checkpoint = "latest"  # or "best": which one --mode=evaluate reads
    return evaluation


def _mesh() -> ConfigDict:
    mesh = ConfigDict({"data": -1, "fsdp": 1, "model": 1})  # devices on each axis, -1: the rest
    mesh.window = 1  # devices that share each clip
    mesh.window_over = "time"  # or "height": along what the clip is cut into their parts
    return mesh


def parse_argument(
    argument: str, allowed: Mapping[str, Sequence[str] | None]
) -> dict[str, str | bool]:
    """Reads what follows the colon of `--config FILE:ARGUMENT`, such as "variant=base,runlocal".

    `allowed` gives each key its values, the first being the default, or None where any text will
    do (default ""). The result has every key, and `runlocal` as a bool.

    Raises:
        InputError: for an unknown key or value, listing what there is.
    """
    chosen: dict[str, str | bool] = {k: v[0] if v else "" for k, v in allowed.items()}
    chosen[RUNLOCAL] = False
    for part in filter(None, (part.strip() for part in argument.split(","))):
        key, equals, value = part.partition("=")
        if key == RUNLOCAL and not equals:
            chosen[RUNLOCAL] = True
            continue
        chosen[key] = _allowed_value(key, value, allowed)
    return chosen


def _allowed_value(key: str, value: str, allowed: Mapping[str, Sequence[str] | None]) -> str:
    if key not in allowed:
        raise unknown_name("argument of --config", key, [*allowed, RUNLOCAL])
    values = allowed[key]
    if values is not None and value not in values:
        raise unknown_name(f"value of {key} in --config", value, values)
    if not value:
        raise InputError(f"Expected {key}=VALUE after the colon of --config but no value came.")
    return value


def runlocal(config: ConfigDict) -> ConfigDict:
    """Shrinks any config to a few steps on a CPU with moving_shapes; what remains is its recipe.

    The optimizer, the losses, the augmentation, the sampling and the kinds of test views stay, so
    a short run shows that a recipe works before it is given a machine.
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
        batch_size=4, resize=config.data.size, clips=min(2, config.eval.clips), views_per_pass=1
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
    "accumulate": 2,
    "log_every": "1 steps",
    "eval_every": "2 steps",
    "checkpoint_every": "2 steps",
}
