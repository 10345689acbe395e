"""Inflated models on videos of equal frames against the image models of torch libraries.

The libraries are installed in CI.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from vswin_jax.models import create_model
from vswin_jax.weights import load_with_report, to_canonical

torch = pytest.importorskip("torch", reason="the oracle needs torch")
pytestmark = pytest.mark.usefixtures("torchvision_models")

SIZES = {"embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4)}
CLASSES = 10
# The last stage is one window, so no window is clamped.
WINDOWS = {"equal": (5, 5), "shrunk": (5, 3), "grown": (3, 5)}
Final = Callable[[Any], Any]


def build_timm(window: int, side: int) -> tuple[torch.nn.Module, Final]:
    swin = pytest.importorskip("timm.models.swin_transformer")
    model = swin.SwinTransformer(
        img_size=side, window_size=window, num_classes=CLASSES, drop_path_rate=0.0, **SIZES
    )
    return model, model.forward_features


def build_huggingface(window: int, side: int) -> tuple[torch.nn.Module, Final]:
    transformers = pytest.importorskip("transformers")
    config = transformers.SwinConfig(
        image_size=side,
        window_size=window,
        num_labels=CLASSES,
        **{name: size if name == "embed_dim" else list(size) for name, size in SIZES.items()},
    )
    model = transformers.SwinForImageClassification(config)

    def final(images: Any) -> Any:
        # [B, rows x columns, C]
        tokens = model.swin(images).last_hidden_state
        rows = round(tokens.shape[1] ** 0.5)
        return tokens.reshape(len(tokens), rows, rows, -1)

    return model, final


def build_torchvision(window: int, side: int) -> tuple[torch.nn.Module, Final]:
    swin = pytest.importorskip("torchvision.models.swin_transformer")
    sizes = {name: size if name == "embed_dim" else list(size) for name, size in SIZES.items()}
    model = swin.SwinTransformer([4, 4], window_size=[window] * 2, num_classes=CLASSES, **sizes)
    return model, lambda images: model.norm(model.features(images))


def write(model: torch.nn.Module, layout: str, directory: Path) -> Path:
    """Write a file of a layout with the library's own functions."""
    if layout == "huggingface":
        model.save_pretrained(directory)
        return directory / "model.safetensors"
    state = model.state_dict()
    if layout == "microsoft":
        arrays = to_canonical({name: value.numpy() for name, value in state.items()})
        state = {name: torch.from_numpy(np.array(value)) for name, value in arrays.items()}
    torch.save({"model": state}, directory / "model.pth")
    return directory / "model.pth"


def resized(state: dict[str, Any], side: int) -> dict[str, Any]:
    """Return the parameters of a state_dict, with bias tables resized by torch."""
    parameters = {}
    for name, value in state.items():
        if name.endswith("bias_table"):
            before = round(len(value) ** 0.5)
            square = value.T.reshape(1, -1, before, before)
            square = torch.nn.functional.interpolate(square, (side, side), mode="bicubic")
            value = square.reshape(-1, side * side).T
        if not name.endswith(("relative_position_index", "attn_mask")):
            parameters[name] = value
    return parameters


@pytest.mark.parametrize("windows", WINDOWS.values(), ids=WINDOWS)
@pytest.mark.parametrize(
    ("layout", "build"),
    [
        ("microsoft", build_timm),
        ("timm", build_timm),
        ("huggingface", build_huggingface),
        ("huggingface_memory", build_huggingface),
        ("torchvision_2d", build_torchvision),
    ],
)
def test_a_video_of_equal_frames_has_the_final_map_of_the_image_model(
    tmp_path: Path,
    layout: str,
    build: Callable[[int, int], tuple[torch.nn.Module, Final]],
    windows: tuple[int, int],
) -> None:
    torch.manual_seed(0)
    before, after = windows
    released, _ = build(before, 8 * before)
    with torch.no_grad():
        for parameter in released.parameters():
            # With the initial values, much of the network would hardly affect the output.
            parameter.add_(torch.randn_like(parameter) * 0.1)
    path = write(released, layout, tmp_path)
    image_model, final = build(after, 8 * after)
    left = image_model.load_state_dict(resized(released.state_dict(), 2 * after - 1), strict=False)
    assert not left.unexpected_keys
    assert all(name.endswith(("index", "attn_mask")) for name in left.missing_keys)
    image = np.random.default_rng(0).standard_normal((1, 3, 8 * after, 8 * after), np.float32)
    with torch.no_grad():
        expected = final(image_model.eval() and torch.from_numpy(image)).numpy()
    model = create_model("swin_tiny", CLASSES, window_size=(2, after, after), **SIZES)
    variables, report = load_with_report(path, model, image_head="keep")
    assert (report.layout, report.count("fresh"), report.count("unexpected")) == (layout, 0, 0)
    still = np.repeat(image.transpose(0, 2, 3, 1)[:, None], 8, axis=1)
    found = jax.jit(lambda x: model.apply(variables, x, method="features"))(still)["final"]
    assert np.abs(expected).mean() > 0.3
    np.testing.assert_allclose(found, np.broadcast_to(expected[:, None], found.shape), atol=1e-5)
