"""Small checkpoints of video and image models as other programs write them, and a video."""

from pathlib import Path
from typing import Any

import av
import jax
import numpy as np
from safetensors.numpy import save_file

from vswin_jax.models import SwinTransformer3D, create_model, init_params
from vswin_jax.weights import export_state_dict, to_state_dict

SMALL = {"embed_dim": 8, "depths": (1, 1), "num_heads": (1, 2), "window_size": (2, 3, 3)}


def small_model(num_classes: int = 5) -> SwinTransformer3D:
    return create_model("swin_tiny", num_classes, **SMALL)


def small_params(model: SwinTransformer3D) -> Any:
    """Draw every parameter, the bias of the head too, as if it had been trained."""
    shapes = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
    rng = np.random.default_rng(3)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.1, leaf.shape).astype(np.float32), shapes)


def write_video_model(path: Path, num_classes: int = 5) -> Path:
    model = small_model(num_classes)
    state = export_state_dict(small_params(model), "original", model.window_size)
    save_file({name: np.ascontiguousarray(value) for name, value in state.items()}, path)
    return path


def write_image_model(path: Path) -> Path:
    """Write a file without the axis of time in patches and tables."""
    state = to_state_dict(small_params(small_model(7)))
    state["patch_embed.proj.weight"] = state["patch_embed.proj.weight"].sum(2)
    state |= {name: state[name][:25].copy() for name in state if name.endswith("bias_table")}
    save_file({name: np.ascontiguousarray(value) for name, value in state.items()}, path)
    return path


def write_small_video(path: Path, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height = 48, 32
        for _ in range(8):
            picture = rng.integers(0, 256, (4, 6, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode())
    return path
