"""Writes layout_names.json: names and shapes of one small Swin in each library's layout.

    pip install torch torchvision timm transformers && python write_layout_names.py

Five classes, 8 channels, two stages of two blocks, 3x3 windows; in 3D (2, 3, 3) ones.
"""

import json
import tempfile
from pathlib import Path

import timm
import torch
from safetensors.torch import load_file
from torchvision.models.swin_transformer import SwinTransformer
from torchvision.models.video.swin_transformer import SwinTransformer3d
from transformers import SwinConfig, SwinForImageClassification

SIZES = {"embed_dim": 8, "depths": [2, 2], "num_heads": [1, 2]}
Tensors = dict[str, torch.Tensor]


def hugging_face() -> tuple[Tensors, Tensors]:
    """Return the tensors that `save_pretrained` writes, and those of `state_dict` in memory."""
    config = SwinConfig(image_size=48, patch_size=4, window_size=3, num_labels=5, **SIZES)
    model = SwinForImageClassification(config)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return load_file(Path(folder) / "model.safetensors"), model.state_dict()


def layouts() -> dict[str, Tensors]:
    """Return the state_dict of each layout."""
    on_disk, in_memory = hugging_face()
    image = {"patch_size": [4, 4], "window_size": [3, 3], "num_classes": 5, **SIZES}
    video = {**image, "patch_size": [2, 4, 4], "window_size": [2, 3, 3]}
    of_timm = timm.models.swin_transformer.SwinTransformer(
        img_size=48, patch_size=4, window_size=3, num_classes=5, **SIZES
    )
    return {
        "huggingface": on_disk,
        "huggingface_memory": in_memory,
        "timm": of_timm.state_dict(),
        "torchvision_2d": SwinTransformer(**image).state_dict(),
        "torchvision": SwinTransformer3d(**video).state_dict(),
    }


if __name__ == "__main__":
    names = {
        layout: {name: list(value.shape) for name, value in state.items()}
        for layout, state in layouts().items()
    }
    Path(__file__).with_name("layout_names.json").write_text(json.dumps(names, indent=0) + "\n")
