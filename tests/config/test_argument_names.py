"""Errors about a setting name it as on the command line, wherever the value is checked."""

from pathlib import Path
from typing import Any

import jax
import pytest
from ml_collections import ConfigDict

from vswin_jax import factory
from vswin_jax.config import base_config, flags, rules
from vswin_jax.data.clips.clip_spec import ClipSpec
from vswin_jax.errors import InputError
from vswin_jax.models import create_model
from vswin_jax.sharding.mesh import make_mesh, mesh_from_config
from vswin_jax.training.setup import TrainingSetup

# A wrong value of every setting that is neither a switch nor any text.
WRONG = {
    **{"seed": 2**63, "init": "scrach"},
    **{"model.name": "swin_tinny", "model.num_classes": 0, "model.dtype": "float16"},
    **{"model.embed_dim": 97, "model.depths": (2, 2), "model.num_heads": (5, 6, 12, 24)},
    **{"model.window_size": (8, 7), "model.patch_size": (2, 4, 0), "model.mlp_ratio": 0.0},
    **{"model.qk_scale": -1.0, "model.drop_rate": 1.0, "model.attn_drop_rate": -0.1},
    **{"model.drop_path_rate": 1.0, "model.head_dropout_rate": 2.0, "model.frozen_stages": -2},
    **{"model.kernel_init": "xavier", "model.remat": "all", "model.relative_position": "no"},
    **{"model.attention": "flash", "model.tokenwise": "fast", "model.token_order": "rows"},
    **{"data.kind": "videos", "data.format": "webdataset", "data.num_frames": 0},
    **{"data.frame_interval": 0, "data.fps": float("inf"), "data.sampling": "dance"},
    **{"data.resize": 223, "data.size": 257, "data.scale": (0.5, 2.0), "data.ratio": (2.0, 1.0)},
    **{"data.flip": 1.5, "data.rand_augment.n": 19, "data.rand_augment.m": 31},
    **{"data.class_balance": 2.0, "data.aug_repeats": 3, "data.processes": -2},
    **{"data.threads": -1, "data.prefetch": 0, "data.max_bad_fraction": 2.0},
    **{"data.shapes.train_scenes": 0, "data.shapes.test_scenes": 0, "data.shapes.seed": -1},
    **{"data.shapes.size": 33, "data.shapes.num_frames": 1, "data.shapes.fps": 0},
    **{"train.batch_size": 0, "train.duration": "30", "train.grad_accum_steps": 3},
    **{"train.log_every": "20", "train.eval_every": "5 months", "train.checkpoint_every": ""},
    **{"train.max_to_keep": 0, "train.ema_decay": 1.0, "train.max_bad_steps": -1},
    **{"train.hang_after": -1.0, "train.compilation_cache": ""},
    **{"optim.learning_rate": float("nan"), "optim.weight_decay": -0.1, "optim.b1": 1.0},
    **{"optim.b2": -1.0, "optim.eps": -1.0, "optim.groups": "all", "optim.clip_norm": -1.0},
    **{"optim.backbone_multiplier": -1.0, "optim.moment_dtype": "fp8", "optim.schedule": "step"},
    **{"optim.warmup": "2.5", "optim.warmup_ratio": 2.0},
    **{"loss.label_smoothing": 1.0, "loss.mixup_alpha": -1.0, "loss.cutmix_alpha": -1.0},
    **{"loss.random_erasing": 2.0},
    **{"eval.batch_size": 0, "eval.num_clips": 0, "eval.num_crops": 2, "eval.resize": 256},
    **{"eval.views_per_pass": 0, "eval.checkpoint": "first"},
    **{"mesh.data": 3, "mesh.fsdp": 0, "mesh.model": -2, "mesh.window": 0},
    **{"mesh.window_over": "width"},
}
# Any text, checked where it is used: paths and names, and what a registry parses.
TEXTS = {
    *("name", "plugins", "init_from", "init_published", "model.attention_layer"),
    *("data.train", "data.eval", "data.root", "data.label_names", "data.flip_labels"),
    *("data.augmentations", "data.batch_augmentations"),
}


def keys(config: ConfigDict, prefix: str = "") -> list[str]:
    found: list[str] = []
    for name, value in config.items():
        path = f"{prefix}{name}"
        found += keys(value, f"{path}.") if isinstance(value, ConfigDict) else [path]
    return found


def type_of(key: str) -> type:
    section, _, name = key.rpartition(".")
    config = base_config()
    for part in filter(None, section.split(".")):
        config = config[part]
    return config.get_type(name)


KEYS = keys(base_config())


def use(config: ConfigDict, workdir: Path) -> None:
    """Check a config as `main` does, and take from it what else has settings."""
    rules.check(config)
    factory.check_settings(config)
    mesh_from_config(config)
    if config.data.format != "auto":
        factory.open_split(config, workdir, "train")
    config.data.kind = "moving_shapes"
    factory.open_split(config, workdir, "train")


def test_every_setting_has_a_wrong_value_here_or_is_a_switch_or_text() -> None:
    switches = {key for key in KEYS if type_of(key) is bool}
    assert {*KEYS} == {*WRONG} | TEXTS | switches
    assert not {*WRONG} & (TEXTS | switches)


@pytest.mark.parametrize("key", WRONG)
def test_an_error_names_the_setting(key: str, tmp_path: Path) -> None:
    config = base_config()
    config.data.train = str(tmp_path)
    config.update_from_flattened_dict({key: WRONG[key]})
    with pytest.raises(InputError) as caught:
        use(config, tmp_path)
    assert f"config.{key}" in str(caught.value)


@pytest.mark.parametrize("key", [key for key in KEYS if type_of(key) in (int, float, bool)])
def test_an_error_about_a_type_names_the_setting_and_an_example(key: str) -> None:
    with pytest.raises(InputError, match=rf"to be (a|true).*, such as --config\.{key}=\S+, but 'w"):
        flags.override(base_config(), [f"--config.{key}=wrong"])


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"data.size": 112},
            "config.eval.resize must equal config.data.size (112) but is 224: change one of them, "
            "or set config.eval.num_crops to 1.",
        ),
        ({"data.size": 256, "eval.resize": 256, "data.resize": 250}, "make config.data.resize at"),
        ({"eval.num_crops": 1, "eval.resize": 200}, "make config.eval.resize at least 224"),
        ({"data.sampling": "uniform"}, "so config.eval.num_clips must be 1 but is 4"),
        ({"model.depths": (1, 1)}, "config.model.depths (1, 1) and config.model.num_heads (3, 6,"),
        ({"train.eval_every": "5"}, "such as config.train.eval_every is a number and a unit"),
        ({"model.name": "swin_t"}, "The known values of config.model.name are swin_base, "),
    ],
)
def test_both_settings_that_contradict_each_other_are_named(
    settings: dict[str, Any], sentence: str
) -> None:
    config = base_config()
    config.update_from_flattened_dict(settings)
    rules.check(config)
    with pytest.raises(InputError) as caught:
        factory.check_settings(config)
    assert sentence in str(caught.value)


def test_a_caller_of_the_functions_reads_their_own_arguments() -> None:
    with pytest.raises(InputError, match=r"so eval_resize must equal size \(112\) but is 224"):
        ClipSpec(size=112, eval_resize=224)
    with pytest.raises(InputError, match="change embed_dim or num_heads"):
        create_model(embed_dim=97)
    with pytest.raises(InputError, match=r"or use data=-1\."):
        make_mesh(data=2, devices=jax.devices()[:1])


def test_a_run_of_no_steps_names_its_duration() -> None:
    config = base_config()
    config.train.duration = "0 steps"
    model = create_model(embed_dim=8, depths=(1,), num_heads=(1,))
    with pytest.raises(InputError, match=r"needs config\.train\.duration above 0, got 0"):
        TrainingSetup.from_config(config, 10, model=model)


def test_a_misspelt_checkpoint_suggests_a_released_one() -> None:
    config = base_config()
    config.init_from = "swin_tiny_patch244_window877_kinetics400_1kk"
    with pytest.raises(
        InputError, match=r"\(did you mean 'swin_tiny_patch244_window877_kin.*_1k'\?"
    ):
        factory.starting_weights(config)
