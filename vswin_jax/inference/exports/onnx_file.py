"""An export as an ONNX file: the parameters in torchvision's model, which PyTorch exports."""

import importlib
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vswin_jax.errors import InputError
from vswin_jax.inference.exports.export_format import ExportCall, ExportFormat
from vswin_jax.inference.trained_model import TrainedModel
from vswin_jax.models import SwinTransformer3D
from vswin_jax.training.step_inputs import PIXEL_MEAN, PIXEL_STD
from vswin_jax.training.task import SINGLE_LABEL
from vswin_jax.weights import export_state_dict

_LIBRARIES = ("torch", "torchvision.models.video", "onnx", "onnxscript", "onnxruntime")
_USAGE = (
    "import onnxruntime; session = onnxruntime.InferenceSession(FILE); "
    "(probabilities,) = session.run(None, {'clips': clips})"
)
# The elements of a constant that is compared with the others; the index has 392 x 392.
_MAX_REPEATED = 2**21

# The settings that torchvision's model has no other value of.
_SETTINGS = {
    "patch_norm": True,
    "qkv_bias": True,
    "qk_scale": None,
    "attention_layer": "reference",
    "relative_position": "reference",
}


def _check_libraries() -> None:
    for name in _LIBRARIES:
        try:
            importlib.import_module(name)
        # torchvision raises a RuntimeError beside a torch that it was not built for.
        except (ImportError, RuntimeError) as error:
            raise _missing(name, str(error).splitlines()[0]) from error


def _missing(name: str, reason: str) -> InputError:
    return InputError(
        f"An export to ONNX needs torch, torchvision, onnx, onnxscript and onnxruntime, but {name} "
        f"cannot be imported ({reason}): run pip install -e '.[onnx]' torch torchvision, the "
        f"last two from the same index."
    )


def _write(loaded: TrainedModel, path: Path) -> None:
    import torch

    _check_settings(loaded.model)
    module = _torch_module(loaded)
    spec = loaded.spec
    # With a batch of one the exporter would take the size of the batch for a constant.
    clips = torch.zeros((2, spec.num_frames, spec.size, spec.size, 3), dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            (clips,),
            input_names=["clips"],
            output_names=["probabilities"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            external_data=False,
            verbose=False,
            # It computes the masks of all windows, which takes minutes for Swin-T; ONNX
            # Runtime does the same in seconds when it loads the file.
            optimize=False,
        )
    _remove_repeats(program.model)
    program.save(str(path))


def _remove_repeats(model: Any) -> None:
    """Keep one copy of constants that several blocks have, such as the index of the bias table."""
    from onnx_ir.passes import common

    common.DeduplicateInitializersPass(size_limit=_MAX_REPEATED)(model)
    common.CommonSubexpressionEliminationPass()(model)


def _check_settings(model: SwinTransformer3D) -> None:
    if sum(model.depths) < 2:
        # It divides by the number of blocks less one.
        raise InputError(
            "An export to ONNX is made by torchvision's model, which has two blocks or more, but "
            "this model has one: export it to stablehlo or savedmodel."
        )
    for name, value in _SETTINGS.items():
        if getattr(model, name) != value:
            raise InputError(
                f"An export to ONNX is made by torchvision's model, whose {name} is {value!r}, but "
                f"this model's is {getattr(model, name)!r}: export it to stablehlo or savedmodel."
            )


def _torch_module(loaded: TrainedModel) -> Any:
    """Build the PyTorch module from uint8 clips to probabilities."""
    import torch

    swin = _torchvision_model(loaded)
    scores = torch.nn.Softmax(-1) if loaded.task is SINGLE_LABEL else torch.nn.Sigmoid()

    class ClipClassifier(torch.nn.Module):
        """torchvision's model between the normalisation and the probabilities."""

        def __init__(self) -> None:
            super().__init__()
            self.swin, self.scores = swin, scores
            self.register_buffer("pixel_mean", torch.tensor(PIXEL_MEAN))
            self.register_buffer("pixel_scale", 1 / torch.tensor(PIXEL_STD))

        def forward(self, clips: Any) -> Any:
            """Return the probabilities of uint8 clips `[B, T, H, W, 3]`."""
            normalized = (clips.float() - self.pixel_mean) * self.pixel_scale
            return self.scores(self.swin(normalized.permute(0, 4, 1, 2, 3)))

    return ClipClassifier().eval()


def _torchvision_model(loaded: TrainedModel) -> Any:
    import torch
    from torchvision.models.video.swin_transformer import SwinTransformer3d

    model = loaded.model
    swin = SwinTransformer3d(
        patch_size=list(model.patch_size),
        embed_dim=model.embed_dim,
        depths=list(model.depths),
        num_heads=list(model.num_heads),
        window_size=list(model.window_size),
        mlp_ratio=model.mlp_ratio,
        num_classes=model.num_classes,
    )
    state = export_state_dict(jax.device_get(loaded.params), "torchvision", model.window_size)
    swin.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in state.items()})
    return swin


def _open(path: Path) -> ExportCall:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda clips: session.run(None, {"clips": clips})[0]


ONNX = ExportFormat(
    name="onnx",
    write=_write,
    open=_open,
    usage=_USAGE,
    layers={"all": "operations of ONNX, from torchvision's model by torch.onnx"},
    is_directory=False,
    check=_check_libraries,
    dtype="float32",
)
