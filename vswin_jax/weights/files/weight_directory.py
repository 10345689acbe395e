"""Finds the weights in a directory that another program wrote, such as Hugging Face's libraries."""

import json
import os
from pathlib import Path, PurePath

from vswin_jax.checkpoint import steps_in
from vswin_jax.errors import InputError, join_some
from vswin_jax.weights.files.mapped_file import map_file

# The files of weights that the libraries write, in the order in which they look for them.
_NAMES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".safetensors", ".npz", ".pth.tar")
_MAX_INDEX_BYTES = 64 << 20


def find_weight_file(path: Path) -> Path | None:
    """Return the file of weights, or of their index, in a directory of another program.

    A file of another name is taken if it is the only index, or the only file of weights without an
    index. It is None for a file, for a run or checkpoint of vswin_jax, and for a directory without
    any file of weights.

    Raises:
      InputError: the directory holds several files of weights, but none under a standard name, or
        it cannot be read.
    """
    try:
        return _find_file(path)
    except PermissionError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}): change its permissions, or give another "
            f"directory."
        ) from None


def _find_file(path: Path) -> Path | None:
    if not path.is_dir() or _is_run(path):
        return None
    named = next((path / name for name in _NAMES if (path / name).exists()), None)
    if named is not None:
        return named
    _check_no_other_program(path)
    return _find_unnamed_file(path)


def _find_unnamed_file(path: Path) -> Path | None:
    names = sorted(child.name for child in path.iterdir())
    indices = [name for name in names if name.endswith(".index.json")]
    files = indices or [name for name in names if name.endswith(_SUFFIXES)]
    if len(files) < 2:
        return path / files[0] if files else None
    raise InputError(
        f"Expected a run of vswin_jax or a directory of Hugging Face with {_NAMES[0]} or "
        f"{_NAMES[2]} but {path} holds {join_some(files, 4)}: give one of these files."
    )


def _is_run(path: Path) -> bool:
    return (path / "state").is_dir() or bool(steps_in(path / "checkpoints") or steps_in(path))


def _check_no_other_program(path: Path) -> None:
    if any(child.name.endswith(".distcp") for child in path.iterdir()):
        raise InputError(
            f"{path} is a checkpoint of torch.distributed: convert it to one file with `python -m "
            f"torch.distributed.checkpoint.format_utils dcp_to_torch {path} model.pth`."
        )
    snapshots = sorted(path.glob("snapshots/*/"))
    if snapshots:
        raise InputError(
            f"{path} is a repository in the cache of Hugging Face: give the directory of one of "
            f"its snapshots, such as {snapshots[0]}."
        )


def read_index(path: Path) -> dict[str, list[str]]:
    """Return the names of the tensors by the name of their file, from the index of the files.

    Raises:
      InputError: the file is no index, or names a file outside of its directory.
    """
    data = map_file(path)
    index = _parse(data[:]) if len(data) <= _MAX_INDEX_BYTES else None
    files = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(files, dict) or not files:
        raise InputError(
            f"{path} is not an index of files of weights, which has a weight_map: give the file of "
            f"the weights, or its directory."
        )
    return _group_by_file(files, path)


def _group_by_file(files: dict[str, object], path: Path) -> dict[str, list[str]]:
    shards: dict[str, list[str]] = {}
    for name, file in files.items():
        if not isinstance(file, str) or not _is_inside(file):
            raise InputError(
                f"{path} names {file!r}, which is no file of its directory: download it again."
            )
        shards.setdefault(file, []).append(name)
    return shards


def _parse(text: bytes) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _is_inside(file: str) -> bool:
    """Return True for a relative path that stays in its directory."""
    parts = PurePath(file).parts
    return bool(parts) and "\0" not in file and parts[0] != os.sep and ".." not in parts
