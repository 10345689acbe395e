"""Shrinks a config to a run of a few steps on a CPU: `runlocal` in an experiment's argument."""

from collections.abc import Sequence

from ml_collections import ConfigDict

from vswin_jax.config.experiment_argument import RUNLOCAL


def runlocal(config: ConfigDict) -> ConfigDict:
    """Shrink any config to a few steps of a small model with random weights, on a CPU.

    The videos, optimizer, losses, augmentation, sampling and kinds of test views stay the same, so
    a short run shows that a recipe works before it gets a large machine. Only a config that names
    no videos trains on moving_shapes, and so until the command line names some.
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
    if not (config.data.train or config.data.eval):
        config.data.update(kind="moving_shapes", label_names="")
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
    "processes": 0,
    "num_frames": 8,
    "frame_interval": 1,
    "resize": 36,
    "size": 32,
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


def without_weights(argument: str, overrides: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """Leave out the weights that a command names for the model that `runlocal` has replaced.

    Returns:
      the overrides without them, and a line for the log if there were any. Weights stay if
      `argument` has no `runlocal`, or if an override sets config.init.
    """
    named = [text for text in overrides if text.startswith("--config.init_from=")]
    is_local = RUNLOCAL in (part.strip() for part in argument.split(","))
    if not named or not is_local or any(text.startswith("--config.init=") for text in overrides):
        return list(overrides), ()
    note = (
        f"runlocal trains a small model from random weights, and those of {named[-1]!r} are of the "
        f"full model: they are not read (add --config.init=pretrained for weights of the small one)"
    )
    return [text for text in overrides if text not in named], (note,)
