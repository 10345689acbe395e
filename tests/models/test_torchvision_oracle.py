"""Our model against torchvision's, which is bit-identical to the reference; CI has torch."""

import re
from collections.abc import Callable

import jax
import numpy as np
import pytest

from vswin_jax.models import create_model
from vswin_jax.weights import from_state_dict

torch = pytest.importorskip("torch", reason="the oracle needs torch")

STAGE = re.compile(r"^features\.(\d)\.(?:(\d)\.)?")


def canonical_name(name: str) -> str:
    """torchvision's name as the original's: features alternate between stages and merges."""
    match = STAGE.match(name)
    if match:
        index, block = int(match[1]), match[2]
        rest = name[match.end() :]
        where = f"layers.{index // 2}." + ("downsample." if index % 2 else f"blocks.{block}.")
        name = where + rest
    return name.replace("mlp.0.", "mlp.fc1.").replace("mlp.3.", "mlp.fc2.")


@pytest.fixture(scope="module")
def torchvision_class() -> type:
    register_fake = torch.library.register_fake

    def skip_missing(name: str, *args: object, **kwargs: object) -> Callable:
        # torchvision's compiled operators do not load on a CPU-only torch; this model has none.
        if name.startswith("torchvision::"):
            return lambda function: function
        return register_fake(name, *args, **kwargs)

    torch.library.register_fake = skip_missing
    try:
        video = pytest.importorskip("torchvision.models.video.swin_transformer")
    finally:
        torch.library.register_fake = register_fake
    return video.SwinTransformer3d


@pytest.mark.parametrize(
    "extent",
    [(16, 56, 56), (8, 28, 28), (9, 50, 41), (1, 32, 32), (6, 24, 60)],
    ids=["plain", "space clamped", "odd", "one frame", "one axis clamped"],
)
def test_logits_agree(torchvision_class: type, extent: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    sizes = {"embed_dim": 16, "depths": [2, 2, 2], "num_heads": [2, 2, 4]}
    theirs = torchvision_class(
        patch_size=[2, 4, 4], window_size=[4, 4, 4], num_classes=7, **sizes
    ).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            # Away from the initial values, under which much of the network hardly matters.
            parameter.add_(torch.randn_like(parameter) * 0.2)
    state = {canonical_name(k): v.numpy() for k, v in theirs.state_dict().items()}
    ours = create_model("swin_tiny", 7, window_size=(4, 4, 4), **sizes)
    clips = np.random.default_rng(1).standard_normal((2, *extent, 3), dtype=np.float32)
    params = from_state_dict(state)
    logits = jax.jit(lambda x: ours.apply({"params": params}, x))(clips)
    with torch.no_grad():
        wanted = theirs(torch.from_numpy(clips.transpose(0, 4, 1, 2, 3).copy())).numpy()
    np.testing.assert_allclose(logits, wanted, atol=2e-5 * np.abs(wanted).max(), rtol=0)
