"""Files written by the installed torch, with every dtype, against torch's tensors."""

from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from vswin_jax.weights.files.pickles import OpaqueObject
from vswin_jax.weights.files.torch_file import extract_state_dict, read_torch_file

torch = pytest.importorskip("torch")

REAL = ("float64", "float32", "float16", "bfloat16", "bool")
FLOAT8 = ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz")
INTEGER = ("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8")
DTYPES = (*REAL, *FLOAT8, *INTEGER, "complex64", "complex128")
ZIPPED = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


def saved(path: Path, value: object, zipped: bool, protocol: int = 2) -> object:
    torch.save(value, path, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    return read_torch_file(path)


def bits(tensor: "torch.Tensor") -> np.ndarray:
    return tensor.detach().contiguous().view(torch.uint8).numpy()


@ZIPPED
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_bit_for_bit(tmp_path: Path, dtype: str, zipped: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    tensor = (100 * torch.rand((3, 5), generator=generator)).to(getattr(torch, dtype))
    read = saved(tmp_path / "a.pth", {"w": tensor, "t": tensor.T, "part": tensor[1:, ::2]}, zipped)
    for name, expected in (("w", tensor), ("t", tensor.T), ("part", tensor[1:, ::2])):
        assert read[name].dtype.name == dtype
        assert read[name].shape == expected.shape
        np.testing.assert_array_equal(
            np.ascontiguousarray(read[name]).view(np.uint8), bits(expected)
        )


@ZIPPED
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol(tmp_path: Path, protocol: int, zipped: bool) -> None:
    state = torch.nn.Linear(3, 2).state_dict()
    read = extract_state_dict(saved(tmp_path / "a.pth", {"model": state}, zipped, protocol), "a")
    assert list(read) == list(state)
    for name in state:
        np.testing.assert_array_equal(read[name], state[name].numpy(), strict=True)


@ZIPPED
def test_a_training_state_with_a_data_parallel_model(tmp_path: Path, zipped: bool) -> None:
    model = torch.nn.Sequential(torch.nn.Conv3d(3, 4, 2), torch.nn.BatchNorm3d(4))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    model(torch.ones(2, 3, 4, 4, 4)).square().sum().backward()
    optimizer.step()
    state = {f"module.{name}": value for name, value in model.state_dict().items()}
    whole = {
        "state_dict": OrderedDict(state),
        "optimizer": optimizer.state_dict(),
        "scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1).state_dict(),
        "rng": torch.get_rng_state(),
    }
    read = saved(tmp_path / "a.pth", whole, zipped)
    found = extract_state_dict(read, "a")
    assert list(found) == list(model.state_dict())
    momentum = optimizer.state_dict()["state"][0]["momentum_buffer"].numpy()
    np.testing.assert_array_equal(read["optimizer"]["state"][0]["momentum_buffer"], momentum)


# torch plans to remove quantized tensors, but files with them will remain.
@pytest.mark.filterwarnings("ignore:.*quantized tensor creation:UserWarning")
@ZIPPED
def test_tensors_that_are_not_dense_are_opaque(tmp_path: Path, zipped: bool) -> None:
    tensors = {
        "sparse": torch.eye(3).to_sparse(),
        "quantised": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
        "conjugated": torch.ones(2, dtype=torch.complex64).conj(),
        "dense": torch.ones(2),
    }
    read = saved(tmp_path / "a.pth", tensors, zipped)
    assert [name for name in tensors if isinstance(read[name], OpaqueObject)] == list(tensors)[:3]
    np.testing.assert_array_equal(read["dense"], [1, 1])


@ZIPPED
def test_a_whole_model_is_refused_by_name(tmp_path: Path, zipped: bool) -> None:
    with pytest.raises(ValueError, match=r"it is an object of torch\.nn\.modules\.linear\.Linear"):
        extract_state_dict(saved(tmp_path / "a.pth", torch.nn.Linear(2, 2), zipped), "a")
