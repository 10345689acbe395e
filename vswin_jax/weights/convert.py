"""Converts a Swin checkpoint to a vswin_jax workdir or to a file for PyTorch."""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from vswin_jax.errors import InputError, unknown_name
from vswin_jax.runtime.atomic_write import atomic_write
from vswin_jax.runtime.output_path import local_path, output_file
from vswin_jax.weights.files.orbax_directory import write_workdir
from vswin_jax.weights.layouts import layouts
from vswin_jax.weights.layouts.target_spec import ConversionTarget, TargetSpec, resolve_target
from vswin_jax.weights.load import load_with_report
from vswin_jax.weights.load_report import LoadReport
from vswin_jax.weights.pytorch_export import export_state_dict, write_safetensors, write_torch

KINDS = ("orbax", *layouts.LAYOUTS_3D)
_FILES = (".safetensors", ".pth", ".pt", ".bin")
# Names of files that a directory would hardly have.
_OTHER_FILES = (
    *(".ckpt", ".npz", ".npy", ".onnx", ".h5", ".hdf5", ".keras", ".tflite", ".pb", ".msgpack"),
    *(".pkl", ".pickle", ".zip", ".tar", ".gz", ".gguf", ".ts", ".torchscript", ".json", ".txt"),
)
# Key in the metadata of a converted checkpoint: canonical names of parameters that are random.
RANDOM_PARAMETERS = "random_parameters"


def convert(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    target_spec: TargetSpec | None = None,
    *,
    to: str | None = None,
    report: str | os.PathLike[str] | None = None,
) -> LoadReport:
    """Write the weights of `source` as another kind of checkpoint, and return the load report.

    Args:
      source: any source of `load_weights`.
      destination: a new directory for "orbax", a new file for the other kinds: `.safetensors`, or
        `.pth`, `.pt` or `.bin` as of `torch.save`. It appears only when it is complete.
      target_spec: changes to the source's model. By default, a video model stays as it is, and an
        image model gets windows of 8 tokens and patches of 2 frames in time.
      to: one of `KINDS`; by default "original" for a file, else "orbax".
      report: a path for the load report as JSON.

    Raises:
      InputError: an invalid source, destination or target spec; then nothing is written.
    """
    kind = _resolve_kind(os.fspath(destination), to)
    path = local_path(destination, "the destination").absolute()
    _check_destination(path)
    if report is not None:
        report = output_file(report, "the report", parent_must_exist=True)
    target = resolve_target(source, target_spec or TargetSpec())
    if kind == "orbax" and not target.label_names:
        raise InputError(
            f"Expected a classifier but {os.fspath(source)} has none: give the number of classes "
            f"of a fresh one."
        )
    target.config.name = path.name
    variables, load_report = load_with_report(source, target.model, **target.load_options)
    with _atomic_path(path) as partial:
        _write(kind, partial, variables["params"], target, load_report)
        if report is not None:
            _write_report(Path(report), load_report)
    return load_report


def _resolve_kind(destination: str, to: str | None) -> str:
    suffix = Path(destination).suffix.lower()
    is_file = suffix in _FILES
    kind = to or ("original" if is_file else "orbax")
    if kind not in KINDS:
        raise unknown_name("kind of checkpoint to write", kind, KINDS)
    if is_file != (kind != "orbax") or suffix in _OTHER_FILES or "://" in destination:
        raise _wrong_destination(destination, kind, is_given=to is not None)
    return kind


def _wrong_destination(destination: str, kind: str, *, is_given: bool) -> InputError:
    file = f"a file that ends in {', '.join(_FILES[:-1])} or {_FILES[-1]}"
    if not is_given:
        return InputError(
            f"Expected a directory, or {file}, on this machine but {destination!r} came: change "
            f"the name."
        )
    return InputError(
        f"Expected {'a directory' if kind == 'orbax' else file} on this machine for {kind} weights "
        f"but {destination!r} came: change the name, or the kind."
    )


def _check_destination(path: Path) -> None:
    if path.exists():
        raise InputError(f"{path} already exists: delete it, or choose another name.")
    output_file(path, "the destination", parent_must_exist=True)


def _write(
    kind: str,
    path: Path,
    params: dict[str, object],
    target: ConversionTarget,
    report: LoadReport,
) -> None:
    if kind == "orbax":
        metadata = {
            "config": target.config.to_dict(),
            "label_names": list(target.label_names),
            RANDOM_PARAMETERS: list(report.named("fresh")),
        }
        write_workdir(path, params, metadata)
    else:
        state = export_state_dict(params, kind, target.model.window_size)
        _write_file(kind, path, state)


def _write_file(kind: str, path: Path, state: Mapping[str, np.ndarray]) -> None:
    if path.suffix.lower() == ".safetensors":
        write_safetensors(path, state, {"format": "pt", "layout": kind})
    else:
        # As the file of each library: torchvision's is a plain state_dict.
        write_torch(path, state, None if kind == "torchvision" else "state_dict")


@contextlib.contextmanager
def _atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path for a file or directory, which is renamed to `path` on success."""
    # File systems limit names to 255 bytes.
    directory = Path(tempfile.mkdtemp(prefix=f".{path.name[:30]}.", dir=path.parent))
    try:
        yield directory / path.name
        os.replace(directory / path.name, path)
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error}): free some space, or choose another directory."
        ) from None
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _write_report(path: Path, report: LoadReport) -> None:
    try:
        with atomic_write(path) as partial:
            partial.write_text(json.dumps(report.to_json(), indent=2) + "\n")
    except OSError as error:
        raise InputError(
            f"The report cannot be written to {path} ({error.strerror}): choose another path."
        ) from None
