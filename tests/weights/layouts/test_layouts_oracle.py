"""Layouts against their libraries: equal logits from imported and from exported weights.

torch, torchvision, timm and transformers are installed in CI.
"""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from vswin_jax.models import SwinTransformer3D, create_model, init_params
from vswin_jax.weights.layouts.describe import describe
from vswin_jax.weights.layouts.layouts import detect_layout, to_canonical
from vswin_jax.weights.layouts.names import Params, from_state_dict
from vswin_jax.weights.pytorch_export import (
    export_state_dict,
    relative_position_index,
    write_safetensors,
)

torch = pytest.importorskip("torch", reason="the oracle needs torch")


SIZES = {"embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4]}
IMAGE = {"patch_size": [4, 4], "window_size": [3, 3], "num_classes": 5, **SIZES}
VIDEO = {**IMAGE, "patch_size": [2, 4, 4], "window_size": [2, 3, 3]}


def build_torchvision(torchvision_models: ModuleType) -> torch.nn.Module:
    return torchvision_models.swin_transformer.SwinTransformer(**IMAGE)


def build_timm(_: ModuleType) -> torch.nn.Module:
    timm = pytest.importorskip("timm.models.swin_transformer", reason="the oracle needs timm")
    sizes = {**IMAGE, "patch_size": 4, "window_size": 3}
    return timm.SwinTransformer(img_size=48, **sizes)


def build_hugging_face(_: ModuleType) -> torch.nn.Module:
    library = pytest.importorskip("transformers", reason="the oracle needs transformers")
    config = library.SwinConfig(image_size=48, patch_size=4, window_size=3, num_labels=5, **SIZES)
    return library.SwinForImageClassification(config)


def randomized(model: torch.nn.Module) -> torch.nn.Module:
    """Change every tensor from its initial value, so that each affects the output."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()


def in_memory(model: torch.nn.Module, _: Path) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in model.state_dict().items()}


def on_disk(model: torch.nn.Module, folder: Path) -> dict[str, np.ndarray]:
    model.save_pretrained(folder)
    return load_file(folder / "model.safetensors")


def our_logits(state: dict[str, np.ndarray], images: np.ndarray) -> np.ndarray:
    """Compute the logits of a 2D state for images `[B, H, W, 3]`, as clips of one frame."""
    canonical = to_canonical(state)
    overrides = describe(canonical).model_overrides(patch_frames=1, window_frames=1)
    kernel = canonical["patch_embed.proj.weight"]
    params = from_state_dict({**canonical, "patch_embed.proj.weight": kernel[:, :, None]})
    model = create_model(**overrides)
    return jax.jit(lambda clips: model.apply({"params": params}, clips))(images[:, None])


@pytest.mark.parametrize(
    ("layout", "build", "read"),
    [
        ("torchvision_2d", build_torchvision, in_memory),
        ("timm", build_timm, in_memory),
        ("huggingface", build_hugging_face, on_disk),
        ("huggingface_memory", build_hugging_face, in_memory),
    ],
)
def test_an_image_model_read_from_a_library_has_equal_logits(
    layout: str,
    build: Callable[[ModuleType], torch.nn.Module],
    read: Callable[[torch.nn.Module, Path], dict[str, np.ndarray]],
    torchvision_models: ModuleType,
    tmp_path: Path,
) -> None:
    torch_model = randomized(build(torchvision_models))
    state = read(torch_model, tmp_path)
    images = np.random.default_rng(1).standard_normal((2, 48, 48, 3), np.float32)
    with torch.no_grad():
        out = torch_model(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    expected = getattr(out, "logits", out).numpy()
    assert detect_layout(state) == layout
    logits = our_logits(state, images)
    np.testing.assert_allclose(logits, expected, atol=2e-5 * np.abs(expected).max(), rtol=0)


def random_params(model: SwinTransformer3D) -> Params:
    shapes = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: 0.2 * rng.standard_normal(leaf.shape, np.float32), shapes)


def test_an_exported_video_model_has_equal_logits_in_torchvision(
    torchvision_models: ModuleType, tmp_path: Path
) -> None:
    sizes = {k: v for k, v in VIDEO.items() if k != "num_classes"}
    flax_model = create_model("swin_tiny", VIDEO["num_classes"], **sizes)
    params = random_params(flax_model)
    path = tmp_path / "model.safetensors"
    write_safetensors(path, export_state_dict(params, "torchvision", (2, 3, 3)))
    torch_model = torchvision_models.video.swin_transformer.SwinTransformer3d(**VIDEO).eval()
    state = {name: torch.from_numpy(value) for name, value in load_file(path).items()}
    torch_model.load_state_dict(state, strict=True)
    clips = np.random.default_rng(1).standard_normal((1, 8, 48, 48, 3), np.float32)
    with torch.no_grad():
        expected = torch_model(torch.from_numpy(clips.transpose(0, 4, 1, 2, 3).copy())).numpy()
    logits = jax.jit(lambda clips: flax_model.apply({"params": params}, clips))(clips)
    np.testing.assert_allclose(logits, expected, atol=2e-5 * np.abs(expected).max(), rtol=0)


@pytest.mark.parametrize(
    ("variant", "name"),
    [("swin_tiny", "swin3d_t"), ("swin_small", "swin3d_s"), ("swin_base", "swin3d_b")],
)
def test_torchvision_loads_the_export_of_each_variant(
    torchvision_models: ModuleType, variant: str, name: str
) -> None:
    shapes = jax.eval_shape(lambda: init_params(create_model(variant), jax.random.key(0)))
    # Only shapes matter here, so no tensor takes memory on either side.
    params = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), shapes)
    state = export_state_dict(params, "torchvision", (8, 7, 7))
    with torch.device("meta"):
        torch_model = getattr(torchvision_models.video, name)()
    on_meta = {
        name: torch.empty(value.shape, dtype=getattr(torch, value.dtype.name), device="meta")
        for name, value in state.items()
    }
    torch_model.load_state_dict(on_meta, strict=True)


def test_the_index_equals_torchvisions(torchvision_models: ModuleType) -> None:
    torch_model = torchvision_models.video.swin_transformer.SwinTransformer3d(**VIDEO)
    buffers = dict(torch_model.named_buffers())
    assert buffers
    for value in buffers.values():
        np.testing.assert_array_equal(relative_position_index((2, 3, 3)), value.numpy())
        assert value.dtype == torch.int64
