"""The first lines of a training run's log: devices, computation, data, schedule and files."""

import logging
import math
import os
from collections.abc import Iterator
from typing import Any

import jax
from jax.sharding import Mesh

from vswin_jax.attention import WindowGeometry
from vswin_jax.attention.window_attention import resolve_implementation
from vswin_jax.errors import InputError
from vswin_jax.kernels import should_fuse
from vswin_jax.models import SwinTransformer3D
from vswin_jax.runtime.unused_accelerator import unused_accelerator
from vswin_jax.sharding.constraints import use_activation_mesh
from vswin_jax.training.durations import TrainingDurations

log = logging.getLogger("vswin_jax")


def log_first_screen(
    config: Any, workdir: os.PathLike, model: SwinTransformer3D, mesh: Mesh, videos: dict[str, int]
) -> None:
    """Log what a run is, in process 0; `videos` are the numbers of "train" and "eval" videos."""
    if jax.process_index() != 0:
        return
    warning = unused_accelerator(jax.default_backend(), os.environ)
    if warning is not None:
        log.warning("%s", warning)
    log.info("devices: %s", describe_devices(mesh))
    log.info("model: %s", describe_model(config, model, mesh))
    log.info(
        "data: %d training and %d held-out videos of %d classes",
        videos["train"],
        videos["eval"],
        model.num_classes,
    )
    num_examples = videos["train"] * config.data.aug_repeats
    log.info("schedule: %s", describe_schedule(config, num_examples))
    if config.train.batch_size > num_examples:
        log.warning("%s", describe_large_batch(config.train.batch_size, num_examples))
    log.info("writes to %s: checkpoints, metrics.jsonl and TensorBoard files", workdir)
    log.info("compiling, which takes longest at a first start")


def describe_devices(mesh: Mesh) -> str:
    """Describe the devices of a run: "8 TPU v5e on 2 hosts (platform tpu), mesh data=8"."""
    devices = mesh.devices.flatten().tolist()
    hosts = len({device.process_index for device in devices})
    axes = [f"{name}={size}" for name, size in mesh.shape.items() if size > 1]
    kind, platform = devices[0].device_kind, devices[0].platform
    places = f" in {hosts} processes" if hosts > 1 else ""
    return f"{len(devices)} {kind}{places} (platform {platform}), mesh {' '.join(axes) or 'data=1'}"


def describe_model(config: Any, model: SwinTransformer3D, mesh: Mesh) -> str:
    """Describe the model, its dtype, and the implementations that were chosen and by whom."""
    clip = f"{config.data.num_frames}x{config.data.size}x{config.data.size}"
    parts = [f"{config.model.name} on clips of {clip}, {config.model.dtype}"]
    with use_activation_mesh(mesh):
        for setting, find in (("attention", _attention), ("tokenwise", _tokenwise)):
            named = getattr(model, setting)
            names = " and ".join(dict.fromkeys(find(config, model)))
            platform = mesh.devices.flat[0].platform
            why = f"chosen for {platform}" if named == "auto" else f"by config.model.{setting}"
            parts.append(f"{setting} {names} ({why})")
    return ", ".join(parts)


def _attention(config: Any, model: SwinTransformer3D) -> Iterator[str]:
    """Yield the name of the implementation of attention in each stage."""
    for windows, tokens, heads, channels in _stages(config, model):
        shape = (config.train.batch_size, windows, tokens, 3, heads, channels // heads)
        qkv = jax.ShapeDtypeStruct(shape, model.dtype)
        scale = model.qk_scale or (channels // heads) ** -0.5
        has_dropout = model.attn_drop_rate > 0
        yield resolve_implementation(model.attention, qkv, None, scale, has_dropout)


def _tokenwise(config: Any, model: SwinTransformer3D) -> Iterator[str]:
    """Yield the name of the implementation of the other layers in each stage."""
    has_dropout = model.drop_rate + model.attn_drop_rate > 0
    for windows, tokens, _, channels in _stages(config, model):
        x = jax.ShapeDtypeStruct((config.train.batch_size, windows, tokens, channels), model.dtype)
        try:
            fuses = should_fuse(
                model.tokenwise, x, int(channels * model.mlp_ratio), has_dropout=has_dropout
            )
        except InputError:
            # The run ends with this error when it traces the model, where all is known.
            yield model.tokenwise
            continue
        plain = "xla" if model.tokenwise in ("auto", "pallas_tpu") else model.tokenwise
        yield "pallas_tpu" if fuses else plain


def _stages(config: Any, model: SwinTransformer3D) -> Iterator[tuple[int, int, int, int]]:
    """Yield the (windows, tokens of a window, heads, channels) of each stage."""
    clip = (config.data.num_frames, config.data.size, config.data.size)
    grid = tuple(map(lambda n, p: -(-n // p), clip, model.patch_size))
    for stage, heads in enumerate(model.num_heads):
        geometry = WindowGeometry.create(grid, model.window_size, (0, 0, 0))
        yield geometry.num_windows, geometry.tokens, heads, model.embed_dim * 2**stage
        grid = (grid[0], *(-(-side // 2) for side in grid[1:]))


def describe_schedule(config: Any, num_examples: int) -> str:
    """Describe the length of a run and of an epoch, in steps."""
    durations = TrainingDurations.from_config(config, num_examples)
    epochs = durations.total_steps / durations.steps_per_epoch
    micro = config.train.grad_accum_steps
    accumulated = f" in {micro} micro-batches" if micro > 1 else ""
    return (
        f"{durations.total_steps} steps of {config.train.batch_size} clips{accumulated}, "
        f"{durations.steps_per_epoch:.4g} steps an epoch, {epochs:.3g} epochs; quick evaluation "
        f"{_every(durations.eval_every)}, checkpoint {_every(durations.checkpoint_every)}"
    )


def _every(steps: float) -> str:
    return f"every {steps:.4g} steps" if steps else "at the end"


def describe_large_batch(batch_size: int, num_examples: int) -> str:
    """Describe what a batch holds that is larger than the training set."""
    most = math.ceil(batch_size / num_examples)
    return (
        f"config.train.batch_size is {batch_size} but there are only {num_examples} training "
        f"clips an epoch: a batch then has each of them up to {most} times, with other random "
        f"crops, and a step is {batch_size / num_examples:.3g} epochs; a batch size of at most "
        f"{num_examples} has each at most once."
    )
