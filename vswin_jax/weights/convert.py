"""Converts a Swin checkpoint to a vswin_jax workdir or to a file for PyTorch."""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from vswin_jax.errors import InputError, unknown_name
from vswin_jax.runtime.atomic_write import atomic_write
from vswin_jax.runtime.output_path import local_path, output_file
from vswin_jax.weights.export import export_state_dict, write_safetensors
from vswin_jax.weights.files.orbax_directory import write_workdir
from vswin_jax.weights.layouts import layouts
from vswin_jax.weights.layouts.target_spec import ConversionTarget, TargetSpec, resolve_target
from vswin_jax.weights.load import load_with_report
from vswin_jax.weights.load_report import LoadReport

KINDS = ("orbax", *layouts.LAYOUTS_3D)


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
      destination: a new directory for "orbax", a new `.safetensors` file for the other kinds. It
        appears only when it is complete.
      target_spec: changes to the source's model. By default, a video model stays as it is, and an
        image model gets windows of 8 tokens and patches of 2 frames in time.
      to: one of `KINDS`; by default "original" for a `.safetensors` file, else "orbax".
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
        _write(kind, partial, variables["params"], target)
        if report is not None:
            _write_report(Path(report), load_report)
    return load_report


def _resolve_kind(destination: str, to: str | None) -> str:
    is_file = destination.endswith(".safetensors")
    kind = to or ("original" if is_file else "orbax")
    if kind not in KINDS:
        raise unknown_name("kind of checkpoint to write", kind, KINDS)
    if is_file != (kind != "orbax") or "://" in destination:
        expected = "a directory" if kind == "orbax" else "a file that ends in .safetensors"
        raise InputError(
            f"Expected {expected} on this machine for {kind} weights but {destination!r} came: "
            f"change the name, or the kind."
        )
    return kind


def _check_destination(path: Path) -> None:
    if path.exists():
        raise InputError(f"{path} already exists: delete it, or choose another name.")
    output_file(path, "the destination", parent_must_exist=True)


def _write(kind: str, path: Path, params: dict[str, object], target: ConversionTarget) -> None:
    if kind == "orbax":
        metadata = {"config": target.config.to_dict(), "label_names": list(target.label_names)}
        write_workdir(path, params, metadata)
    else:
        state = export_state_dict(params, kind, target.model.window_size)
        write_safetensors(path, state, {"format": "pt", "layout": kind})


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
