"""The settings of a run: every field with its default.

The defaults are what the published Kinetics-400 recipes have in common (Video Swin,
arXiv:2106.13230, section 4.1), so an experiment file states only the settings that differ.
`docs/config.md` is written from this file by `scripts/document_config.py`: a setting's description
is the comment behind it, or the one above it.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def base_config() -> ConfigDict:
    """Return a config with every field, locked: a misspelt name fails where it is written."""
    config = ConfigDict()
    config.name = ""  # of the recipe, for logs and tables
    config.seed = 0  # of initial weights, the order of the videos, augmentations, and dropout
    config.plugins = ""  # modules of your own to import, by commas; see docs/extending.md
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
    """Build the settings of the model; None is the value of the named variant."""
    model = ConfigDict()
    model.name = "swin_tiny"  # or swin_small, swin_base, swin_large
    model.num_classes = placeholder(int)  # None: the number of classes of the training set
    model.dtype = "bfloat16"  # compute dtype; parameters, logits and softmax stay float32
    model.embed_dim = placeholder(int)  # channels of the first stage
    model.depths = placeholder(tuple)  # blocks of each stage
    model.num_heads = placeholder(tuple)  # attention heads of each stage
    model.window_size = placeholder(tuple)  # tokens: (time, height, width)
    model.patch_size = placeholder(tuple)  # pixels: (time, height, width)
    model.patch_norm = placeholder(bool)  # a LayerNorm after the patch embedding
    model.mlp_ratio = placeholder(float)  # hidden channels of an MLP, relative to its input
    model.qkv_bias = placeholder(bool)  # biases of queries, keys and values
    model.qk_scale = placeholder(float)  # factor of the logits; None: 1 / sqrt(head dimension)
    model.drop_rate = placeholder(float)  # dropout of tokens, projections and MLPs
    model.attn_drop_rate = placeholder(float)  # dropout of attention weights
    model.drop_path_rate = placeholder(float)  # stochastic depth, rising to this in the last block
    model.head_dropout_rate = placeholder(float)  # dropout before the classifier
    model.frozen_stages = placeholder(int)  # -1: none; 0: the patch embedding; n: n stages too
    # Initial kernels: "reference", or "lecun" for narrow models from random weights.
    model.kernel_init = placeholder(str)
    model.remat = placeholder(str)  # rematerialised: none, attention, dots, mlp or block
    # Bias where a window is clamped in space: "reference", or "exact" with the right offsets.
    model.relative_position = placeholder(str)
    # Implementation of attention: auto, xla, chunked, pallas_tpu or gpu.
    model.attention = placeholder(str)
    # A registered attention layer with its options, such as "cosine(max_scale=50)".
    model.attention_layer = placeholder(str)
    # Implementation of the layers other than attention: auto, xla, chunked, pallas_tpu.
    model.tokenwise = placeholder(str)
    # Order of the tokens between blocks: windows (window order), or map (raster order).
    model.token_order = placeholder(str)
    return model


def _data() -> ConfigDict:
    """Build the settings of the data: videos, clips and augmentations."""
    data = ConfigDict()
    data.kind = "files"  # or "moving_shapes", videos that the run writes itself
    data.train = ""  # annotation file, folder with a folder per class, or DIRECTORY:SPLIT of TFDS
    data.eval = ""  # the same, of the held-out videos
    data.root = ""  # parent of the paths in an annotation file, of TFDS data, of moving_shapes
    data.format = "auto"  # or the format's name: list, csv, folder, ssv2, ..., a registered one
    data.label_names = ""  # a text file with one class name a line, in label order
    data.multi_label = False  # True: a video has any number of classes, `a.mp4 run;jump` in a list
    data.num_frames = 32  # frames of a clip
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
    data.rand_augment = ConfigDict()
    data.rand_augment.n = 0  # RandAugment's operations on each clip; 0: off
    data.rand_augment.m = 7  # their magnitude, up to 30
    # Registered augmentations of whole clips, in this order, after the crop, the flip and
    # RandAugment: ({"name": "color_jitter", "strength": 0.4, "p": 0.8}, "grayscale(p=0.1)").
    data.augmentations = ()
    data.batch_augmentations = ()  # the same on the device, after erasing and before mixing
    # 0: every example once an epoch. 1: every class equally often. Between: a class of n examples
    # in proportion to n**(1 - class_balance), so 0.5 is square-root sampling. Epochs keep their
    # length.
    data.class_balance = 0.0
    data.aug_repeats = 1  # clips of each video in a batch; an epoch grows by the same factor
    data.processes = -1  # decoding processes; -1: one per core; 0: threads decode instead
    data.threads = 0  # threads that decode, or feed the processes; 0: chosen automatically
    data.prefetch = 2  # batches prepared ahead of the training step
    # Unreadable videos are replaced in training, and left out of the scores. The run ends if their
    # fraction is clearly above this one.
    data.max_bad_fraction = 0.05
    data.shapes = _shapes()
    return data


def _shapes() -> ConfigDict:
    """Build the settings of moving_shapes: eight videos of each scene."""
    shapes = ConfigDict()
    shapes.train_scenes = 300  # scenes of the training set
    shapes.test_scenes = 40  # scenes of the held-out set
    shapes.seed = 0  # of the scenes
    shapes.size = 64  # pixels of the width and of the height
    shapes.num_frames = 24  # of a video
    shapes.fps = 12  # frames per second
    return shapes


def _train() -> ConfigDict:
    """Build the settings of training; durations are "30 epochs", "9 steps" or "640 examples"."""
    train = ConfigDict()
    # True: the batch size, durations and intervals that the command line does not name follow from
    # the number of training videos; see `fit_to_videos`.
    train.fit_to_videos = False
    train.batch_size = 64  # clips per step, over all devices and micro-batches
    train.duration = "30 epochs"  # of the whole training
    train.grad_accum_steps = 1  # micro-batches per step
    train.log_every = "20 steps"  # interval of the lines of metrics
    train.eval_every = "5 epochs"  # quick: one centred clip per video
    train.checkpoint_every = "1 epochs"  # interval of saves, which are asynchronous
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
    """Build the settings of AdamW and of the learning rate."""
    optim = ConfigDict()
    optim.learning_rate = 1e-3  # of the head; for the backbone, `groups` decides what is multiplied
    optim.weight_decay = 0.02  # of AdamW, times the group's factor
    optim.b1 = 0.9  # decay of the first moment
    optim.b2 = 0.999  # decay of the second moment
    optim.eps = 1e-8  # added to the root of the second moment
    optim.groups = "literal"  # parameter groups as the original code applied them, or "intended"
    optim.backbone_multiplier = 0.1  # of the learning rate in the backbone
    optim.clip_norm = 0.0  # global gradient norm; 0: no clipping
    optim.moment_dtype = "float32"  # of the first moment, or "bfloat16"
    optim.offload = False  # True: moments are kept in host memory
    optim.schedule = "epoch_cosine"  # constant within an epoch, as the original; or "cosine"
    optim.warmup = "2.5 epochs"  # linear, from warmup_ratio to 1
    optim.warmup_ratio = 0.1  # fraction of the learning rate in the first step
    return optim


def _loss() -> ConfigDict:
    """Build the settings of the loss and of what mixes or erases clips on the device."""
    loss = ConfigDict()
    loss.label_smoothing = 0.0  # s: targets are (1 - s) * target + s / classes
    loss.mixup_alpha = 0.0  # mixup with a weight of Beta(alpha, alpha) for the batch; 0: off
    loss.cutmix_alpha = 0.0  # the same for CutMix; with both, one of the two at even odds
    loss.random_erasing = 0.0  # probability that a box of a clip is erased, in all of its frames
    return loss


def _eval() -> ConfigDict:
    """Build the settings of evaluations."""
    evaluation = ConfigDict()
    evaluation.batch_size = 8  # videos, each with num_clips * num_crops views
    evaluation.num_clips = 4  # along time
    evaluation.num_crops = 3  # along the longer side
    evaluation.resize = 224  # pixels of the short side
    evaluation.views_per_pass = 4  # views of each video in one forward pass
    # The one that --mode=evaluate scores: the latest, or "best", that of the best quick score.
    evaluation.checkpoint = "latest"
    # Unreadable held-out videos are left out of the scores, up to data.max_bad_fraction, and
    # counted. True: the first one is an error, at the start if its file cannot be opened.
    evaluation.strict = False
    return evaluation


def _mesh() -> ConfigDict:
    """Build the settings of the device mesh: devices along each axis."""
    mesh = ConfigDict()
    mesh.data = -1  # devices that divide the batch; -1: all that the other axes leave
    mesh.fsdp = 1  # devices that divide the batch, the parameters and the moments
    mesh.model = 1  # devices that divide heads and hidden channels
    mesh.window = 1  # devices that share each clip
    mesh.window_over = "time"  # the axis of the clip that they divide; or "height"
    return mesh
