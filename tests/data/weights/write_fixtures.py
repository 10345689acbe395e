"""Writes the torch files of this folder, and what must be read from them; needs torch.

    python tests/data/weights/write_fixtures.py

`everything_zip.pth` and `everything_legacy.pth` hold the same: tensors of every kind under
`state_dict`, and beside them what trainers leave in their checkpoints. `everything.npz` has the
values (bfloat16 and float8 as float32). `mmaction2_half.pth` is a float16 Video Swin of 4
channels in the names and the container of mmaction2's model zoo.

`wrapped/` has the tensors of that Swin (without its index buffers) as wrappers, trainers and users
save them, with other values wherever there is a second Swin.
"""

import argparse
import copy
import os
import pickle
import sys
from collections import OrderedDict, namedtuple
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
import torch.distributed.tensor

HERE = Path(__file__).parent


def class_of(module: str, name: str, *bases: type) -> type:
    """Create an importable class `module.name`, as of a library that the reader does not have."""
    parts = module.split(".")
    for length in range(1, len(parts) + 1):
        sys.modules.setdefault(".".join(parts[:length]), ModuleType(parts[length - 1]))
    made = type(name, bases, {"__module__": module})
    setattr(sys.modules[module], name, made)
    return made


def everything() -> dict[str, torch.Tensor]:
    count = torch.arange(24)
    shared = torch.arange(10, dtype=torch.float32)
    return OrderedDict(
        float32=(count / 8).reshape(2, 3, 4),
        float64=(count / 3).double(),
        float16=(count / 8).half().reshape(4, 6),
        bfloat16=(count / 8).bfloat16(),
        float8=(count / 8).to(torch.float8_e4m3fn),
        int64=count * 2**40,
        int32=(count - 5).int(),
        int16=(count - 5).short(),
        int8=(count - 5).to(torch.int8),
        uint8=count.to(torch.uint8),
        uint16=(count + 65000).to(torch.uint16),
        bool=count % 3 == 0,
        complex64=torch.complex(count / 8, -count / 4),
        scalar=torch.tensor(2.5),
        empty=torch.zeros(0, 3),
        transposed=(count / 8).reshape(4, 6).T,
        every_other=(count / 8)[1::2],
        broadcast=torch.tensor([1.0, 2.0]).expand(3, 2),
        shared_start=shared[:6],
        shared_end=shared[4:],
        parameter=torch.nn.Parameter(torch.ones(2, 2)),
        parameter_with_state=with_attribute(torch.nn.Parameter(torch.full((3,), 4.0))),
        tensor_with_state=with_attribute(torch.full((3,), 5.0)),
    )


def with_attribute(tensor: torch.Tensor) -> torch.Tensor:
    tensor.note = "kept"
    return tensor


def checkpoint(state: dict[str, torch.Tensor]) -> dict[str, object]:
    config = class_of("yacs.config", "CfgNode", dict)({"MODEL": "swin"})
    config.frozen = True
    history = class_of("mmengine.logging.history_buffer", "HistoryBuffer")()
    history._log_history = np.arange(3.0)
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([weight])
    weight.sum().backward()
    optimizer.step()
    return {
        "state_dict": state,
        "optimizer": optimizer.state_dict(),
        "meta": {"epoch": 30, "best": np.float64(0.8), "seen": {1, 2}, "size": torch.Size([2, 3])},
        "message_hub": {"log_scalars": OrderedDict(loss=history)},
        "config": config,
        "device": torch.device("cpu"),
    }


def video_swin(width: int = 4, window: tuple[int, int, int] = (2, 2, 2)) -> dict[str, torch.Tensor]:
    """Two stages of one block, 5 classes; every tensor of `arange`."""
    tokens, offsets = np.prod(window), np.prod([2 * size - 1 for size in window])
    shapes = {"backbone.patch_embed.proj.weight": (width, 3, 2, 4, 4)}
    shapes["backbone.patch_embed.proj.bias"] = (width,)
    shapes |= {f"backbone.patch_embed.norm.{leaf}": (width,) for leaf in ("weight", "bias")}
    for stage, channels in enumerate((width, 2 * width)):
        block = f"backbone.layers.{stage}.blocks.0."
        shapes |= {f"{block}norm1.{leaf}": (channels,) for leaf in ("weight", "bias")}
        shapes[f"{block}attn.relative_position_bias_table"] = (offsets, stage + 1)
        shapes[f"{block}attn.relative_position_index"] = (tokens, tokens)
        shapes |= linear(f"{block}attn.qkv", channels, 3 * channels)
        shapes |= linear(f"{block}attn.proj", channels, channels)
        shapes |= {f"{block}norm2.{leaf}": (channels,) for leaf in ("weight", "bias")}
        shapes |= linear(f"{block}mlp.fc1", channels, 4 * channels)
        shapes |= linear(f"{block}mlp.fc2", 4 * channels, channels)
    shapes["backbone.layers.0.downsample.reduction.weight"] = (2 * width, 4 * width)
    shapes |= {
        f"backbone.layers.0.downsample.norm.{leaf}": (4 * width,) for leaf in ("weight", "bias")
    }
    shapes |= {f"backbone.norm3.{leaf}": (2 * width,) for leaf in ("weight", "bias")}
    shapes |= linear("cls_head.fc_cls", 2 * width, 5)
    return OrderedDict((name, counted(name, shape)) for name, shape in shapes.items())


def linear(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def counted(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    values = torch.arange(int(np.prod(shape))).reshape(tuple(int(size) for size in shape))
    return values if name.endswith("index") else (values % 64 / 64).half()


def values(tensor: torch.Tensor) -> np.ndarray:
    if tensor.dtype in (torch.bfloat16, torch.float8_e4m3fn):
        tensor = tensor.float()
    return tensor.detach().numpy()


class AnyModule(torch.nn.Module):
    """Has any modules as attributes."""

    def __init__(self, **modules: torch.nn.Module) -> None:
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)


def as_module(state: dict[str, torch.Tensor]) -> torch.nn.Module:
    """Return the tree of modules that has this state_dict."""
    root = AnyModule()
    for name, tensor in state.items():
        module = root
        *parents, leaf = name.split(".")
        for parent in parents:
            if parent not in module._modules:
                module.add_module(parent, AnyModule())
            module = module._modules[parent]
        module.register_parameter(leaf, torch.nn.Parameter(tensor.clone(), requires_grad=False))
    return root


class ShellCommand:
    """Pickles as a call of `os.system`."""

    def __reduce__(self) -> tuple:
        return os.system, ("touch was_executed",)


def under(prefix: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return OrderedDict((prefix + name, tensor) for name, tensor in state.items())


def named_tuple(fields: str) -> type:
    made = namedtuple("TrainState", fields)
    made.__module__ = "flax_like"
    sys.modules[made.__module__] = ModuleType(made.__module__)
    sys.modules[made.__module__].TrainState = made
    return made


def distributed(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return what FSDP2 makes of a state_dict on one device."""
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    mesh = torch.distributed.init_device_mesh("cpu", (1,))
    shard = torch.distributed.tensor.Shard(0)
    return {
        name: torch.distributed.tensor.distribute_tensor(tensor, mesh, [shard])
        for name, tensor in state.items()
    }


def wrapped() -> Iterator[tuple[str, object]]:
    """Yield the objects of the files of `wrapped/`, by name."""
    swin = OrderedDict((k, v) for k, v in video_swin().items() if not k.endswith("index"))
    noise = OrderedDict((name, tensor + 1) for name, tensor in swin.items())
    model, other = as_module(swin), as_module(noise)
    averaged = torch.optim.swa_utils.AveragedModel
    yield "averaged_model.pth", averaged(model).state_dict()
    yield "compiled_of_parallel.pth", torch.compile(torch.nn.DataParallel(model)).state_dict()
    yield "parallel_of_compiled.pth", torch.nn.DataParallel(torch.compile(model)).state_dict()
    inside = copy.deepcopy(model)
    stage = inside.backbone.layers._modules["0"]
    stage.blocks = torch.compile(torch.nn.DataParallel(stage.blocks))
    yield "compiled_inside.pth", inside.state_dict()
    lightning = AnyModule(net=model, ema=averaged(other), loss=torch.nn.BatchNorm1d(3))
    settings = {"hyper_parameters": argparse.Namespace(lr=1e-3), "callbacks": ShellCommand()}
    yield "lightning.ckpt", {"epoch": 3, "state_dict": lightning.state_dict(), **settings}
    steps = {"steps": torch.tensor(3)}
    yield (
        "mmengine_ema.pth",
        {"state_dict": swin, "ema_state_dict": under("module.", noise) | steps},
    )
    yield "mmengine_ema_alone.pth", {"ema_state_dict": under("module.", swin) | steps}
    yield "student_and_teacher.pth", {"teacher": noise, "student": under("module.", swin)}
    yield "registered_twice.pth", AnyModule(first=model, second=model).state_dict()
    yield "whole_model.pth", {"epoch": 3, "network": model}
    yield "numpy.pth", {"model": {name: tensor.numpy() for name, tensor in swin.items()}}
    yield "dict_subclass.pth", class_of("addict", "Dict", dict)(swin)
    yield "named_tuple.pth", named_tuple("step state")(3, swin)
    yield "distributed.pth", {"model": distributed(swin)}
    head = {name.rpartition(".")[2]: swin[name] for name in swin if "fc_cls" in name}
    trunk = {
        name.removeprefix("backbone."): tensor
        for name, tensor in swin.items()
        if name.startswith("backbone.")
    }
    trunk = {name.replace("norm3", "norm"): tensor for name, tensor in trunk.items()}
    own = under("model.trunk.", trunk) | under("model.classifier.1.", head)
    yield "own_attributes.pth", {"model": own}


def main() -> None:
    state = everything()
    for name, zipped in (("zip", True), ("legacy", False)):
        path = HERE / f"everything_{name}.pth"
        torch.save(checkpoint(state), path, _use_new_zipfile_serialization=zipped)
    np.savez(HERE / "everything.npz", **{name: values(tensor) for name, tensor in state.items()})
    half = {"meta": {"epoch": 30}, "state_dict": video_swin()}
    torch.save(half, HERE / "mmaction2_half.pth", _use_new_zipfile_serialization=False)
    write_wrapped()


def write_wrapped() -> None:
    (HERE / "wrapped").mkdir(exist_ok=True)
    for name, value in wrapped():
        # The old container is a third as large, for as many small tensors.
        torch.save(value, HERE / "wrapped" / name, _use_new_zipfile_serialization=False)
    swin = {name: value for name, value in video_swin().items() if not name.endswith("index")}
    (HERE / "wrapped" / "plain_pickle.pkl").write_bytes(pickle.dumps({"model": swin}))


if __name__ == "__main__":
    main()
