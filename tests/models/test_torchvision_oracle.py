"""The model against torchvision's, which is bit-identical to the reference; CI has torch."""

from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vswin_jax.models import SwinTransformer3D, create_model
from vswin_jax.weights.layouts.layouts import to_canonical
from vswin_jax.weights.layouts.names import from_state_dict, to_state_dict

torch = pytest.importorskip("torch", reason="the oracle needs torch")


Size = tuple[int, int, int]
Arrays = dict[str, np.ndarray]

VARIANTS = {"swin_tiny": "swin3d_t", "swin_small": "swin3d_s", "swin_base": "swin3d_b"}
SMALL = {"embed_dim": 16, "depths": [2, 2, 2], "num_heads": [2, 2, 4], "window_size": [4, 4, 4]}
WHOLE = (32, 224, 224)
CLAMPED = (16, 112, 112)
ODD = (9, 75, 102)
# Every variant and every kind of size once; all nine pairs would take minutes.
COMPARED = {
    "tiny whole": ("swin_tiny", WHOLE),
    "tiny clamped": ("swin_tiny", CLAMPED),
    "tiny odd": ("swin_tiny", ODD),
    "small odd": ("swin_small", ODD),
    "base clamped": ("swin_base", CLAMPED),
}


def randomized(model: torch.nn.Module, scale: float) -> torch.nn.Module:
    """Add noise to the parameters: with initial values much of the network has little effect."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * scale)
    return model.eval()


def their_small(torchvision_models: ModuleType) -> torch.nn.Module:
    video = torchvision_models.video.swin_transformer
    return randomized(video.SwinTransformer3d(patch_size=[2, 4, 4], num_classes=7, **SMALL), 0.2)


def their_variant(torchvision_models: ModuleType, variant: str) -> torch.nn.Module:
    return randomized(getattr(torchvision_models.video, VARIANTS[variant])(), 0.05)


def random_clips(batch: int, extent: Size) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((batch, *extent, 3), dtype=np.float32)


def to_torch(clips: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(clips.transpose(0, 4, 1, 2, 3).copy())


def params_of(theirs: torch.nn.Module) -> dict[str, object]:
    state = {name: value.numpy() for name, value in theirs.state_dict().items()}
    return from_state_dict(to_canonical(state, "torchvision"))


def both_logits(
    ours: SwinTransformer3D, theirs: torch.nn.Module, clips: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    params = params_of(theirs)
    logits = jax.jit(lambda params, x: ours.apply({"params": params}, x))(params, clips)
    with torch.no_grad():
        return np.asarray(logits), theirs(to_torch(clips)).numpy()


def both_gradients(
    ours: SwinTransformer3D, theirs: torch.nn.Module, clips: np.ndarray, classes: int
) -> tuple[Arrays, Arrays]:
    """Return the gradients of a fixed random sum of the logits, by canonical parameter name."""
    weights = np.random.default_rng(2).standard_normal((len(clips), classes), dtype=np.float32)

    def loss(params: dict[str, object]) -> jax.Array:
        return jnp.sum(ours.apply({"params": params}, clips) * weights)

    actual = to_state_dict(jax.jit(jax.grad(loss))(params_of(theirs)))
    (theirs(to_torch(clips)) * torch.from_numpy(weights)).sum().backward()
    expected = {name: value.grad.numpy() for name, value in theirs.named_parameters()}
    return actual, to_canonical(expected, "torchvision")


def check_gradients(actual: Arrays, expected: Arrays) -> None:
    """Check that the error of each tensor is below 1e-3 of it, both in Euclidean norm."""
    assert actual.keys() == expected.keys()
    error = {
        name: np.linalg.norm(actual[name] - value) / np.linalg.norm(value)
        for name, value in expected.items()
    }
    assert max(error.values()) < 1e-3, max(error, key=error.get)


@pytest.mark.parametrize(
    "extent",
    [(16, 56, 56), (8, 28, 28), (9, 50, 41), (1, 32, 32), (6, 24, 60)],
    ids=["plain", "space clamped", "odd", "one frame", "one axis clamped"],
)
def test_logits_agree(torchvision_models: ModuleType, extent: Size) -> None:
    theirs, ours = their_small(torchvision_models), create_model("swin_tiny", 7, **SMALL)
    logits, expected = both_logits(ours, theirs, random_clips(2, extent))
    np.testing.assert_allclose(logits, expected, atol=2e-5 * np.abs(expected).max(), rtol=0)


@pytest.mark.parametrize(("variant", "extent"), COMPARED.values(), ids=COMPARED)
def test_logits_of_the_variants_agree(
    torchvision_models: ModuleType, variant: str, extent: Size
) -> None:
    theirs = their_variant(torchvision_models, variant)
    logits, expected = both_logits(create_model(variant), theirs, random_clips(1, extent))
    assert np.std(expected) > 0.1
    np.testing.assert_allclose(logits, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("extent", [(16, 56, 56), (9, 50, 41)], ids=["plain", "odd"])
def test_gradients_agree(torchvision_models: ModuleType, extent: Size) -> None:
    theirs, ours = their_small(torchvision_models), create_model("swin_tiny", 7, **SMALL)
    check_gradients(*both_gradients(ours, theirs, random_clips(2, extent), 7))


def test_gradients_of_swin_tiny_agree(torchvision_models: ModuleType) -> None:
    theirs = their_variant(torchvision_models, "swin_tiny")
    clips = random_clips(1, (4, 64, 64))
    check_gradients(*both_gradients(create_model("swin_tiny"), theirs, clips, 400))
