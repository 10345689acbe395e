"""Recognises files that are no checkpoints, or those of other programs, to say so in an error."""

from collections.abc import Iterable
from mmap import mmap
from pathlib import PurePath

_SAVE = "save model.state_dict() with torch.save"
_TENSORFLOW = "is of TensorFlow: expected a checkpoint of PyTorch; take that of the same model."

# Formats by their first bytes, and the ends of the errors about them.
_MAGICS = {
    b"version https://git-lfs": "is a pointer of git-lfs, not the file itself: run `git lfs pull` "
    "in its repository.",
    b"\x89HDF\r\n\x1a\n": "is an HDF5 file, as Keras writes: expected a checkpoint of PyTorch; "
    "take that of the same model.",
    b"\x1f\x8b": "is compressed by gzip: unpack it with gunzip.",
    b"\xfd7zXZ": "is compressed by xz: unpack it with unxz.",
    b"(\xb5/\xfd": "is compressed by zstd: unpack it with unzstd.",
    b"BZh": "is compressed by bzip2: unpack it with bunzip2.",
    b"7z\xbc\xaf": "is a 7z archive: unpack it and give the checkpoint in it.",
    b"Rar!": "is a RAR archive: unpack it and give the checkpoint in it.",
    b"GGUF": f"is a GGUF file: load the model that it was made from, and {_SAVE}.",
    b"\x93NUMPY": "is a single array of NumPy: save all tensors by name with numpy.savez.",
}
# Formats without such bytes, by the end of the file's name.
_SUFFIXES = {
    ".onnx": f"is an ONNX model: load the model that it was made from, and {_SAVE}.",
    ".pb": _TENSORFLOW,
    ".tflite": _TENSORFLOW,
    ".index": _TENSORFLOW,
    ".data-00000-of-00001": _TENSORFLOW,
    ".msgpack": "is a checkpoint of Flax: expected one of PyTorch, or a directory of vswin_jax.",
}
_WEIGHTS = (".pth", ".pt", ".bin", ".ckpt", ".safetensors")
_EXPORTED = ("serialized_exported_program.json", "models/model.json")


def describe_other_file(data: mmap, path: str) -> str:
    """Return the end of an error about a file that is neither a zip file nor a pickle."""
    start = data[:512]
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    known = next((end for magic, end in _MAGICS.items() if start.startswith(magic)), None)
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<body")):
        known = "is a web page, not a checkpoint: give the URL of the file, not of a page about it."
    elif text.startswith((b"{", b"[")):
        known = f"is text in JSON that begins with {start[:40]!r}: give the file of the weights."
    elif start[8:10] == b'{"':
        known = "is the beginning of a safetensors file, cut short: download it again."
    elif start[257:262] == b"ustar":
        known = (
            "is a tar file, as PyTorch before 0.1.10 wrote: unpack it if it holds a checkpoint, or "
            "load it with torch and save it again with torch.save."
        )
    return known or _describe_by_name(PurePath(path).name.lower(), start)


def _describe_by_name(name: str, start: bytes) -> str:
    known = next((end for suffix, end in _SUFFIXES.items() if name.endswith(suffix)), None)
    return known or (
        f"is not a file of torch.save: expected a zip file or a pickle, but it starts with "
        f"{start[:16]!r}; give a checkpoint of PyTorch."
    )


def describe_other_zip(names: Iterable[str]) -> str | None:
    """Return the end of an error about a zip file with these entries; None if it is torch's."""
    names = list(names)
    inner = [name.partition("/")[2] for name in names]
    if any(name == "constants.pkl" or name.startswith("code/") for name in inner):
        return "is a TorchScript archive: load it with torch.jit.load and save its state_dict()."
    if any(name.endswith(_EXPORTED) for name in names):
        return f"is a program of torch.export: load it with torch.export.load, and {_SAVE}."
    if "data.pkl" in inner:
        return None
    weights = [name for name in names if name.endswith(_WEIGHTS)]
    if weights:
        return f"is a zip archive that holds {weights[0]}: unpack it and give that file."
    if "model.weights.h5" in names:
        return "is a model of Keras: expected a checkpoint of PyTorch; take that of the same model."
    return (
        "is a zip file, but not one of torch.save, which has a data.pkl: give a checkpoint that "
        "PyTorch wrote."
    )
