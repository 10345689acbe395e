"""Any Swin checkpoint into a directory of ours, or into a file that a PyTorch loader takes."""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from vswin_jax.errors import InputError, unknown_name
from vswin_jax.runtime.atomic_write import whole_file
from vswin_jax.weights.export import export_state_dict, write_safetensors
from vswin_jax.weights.files.orbax_directory import write_run
from vswin_jax.weights.layouts import layouts
from vswin_jax.weights.layouts.target_spec import Wanted, Wishes, decide
from vswin_jax.weights.load import load_with_report
from vswin_jax.weights.load_report import Report

KINDS = ("orbax", *layouts.LAYOUTS_3D)


def convert(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    wishes: Wishes | None = None,
    *,
    to: str | None = None,
    report: str | os.PathLike[str] | None = None,
) -> Report:
    """Writes the weights of `source` as another kind of checkpoint.

    Args:
      source: whatever `load_weights` takes.
      destination: a directory for "orbax", a `.safetensors` file for the rest, where nothing is
        yet. It gets its name when it is complete.
      wishes: by default the source's own model, and for an image model windows of 8 and patches
        of 2 frames.
      to: one of `KINDS`; by default "original" for a `.safetensors` file, else "orbax".
      report: a JSON file to write the account of every tensor to.

    Returns:
      The account of every tensor.

    Raises:
      InputError: a source, destination or wish that cannot be; nothing is written then.
    """
    kind = _kind(os.fspath(destination), to)
    target = Path(destination).absolute()
    _check_place(target)
    wanted = decide(source, wishes or Wishes())
    if kind == "orbax" and not wanted.label_names:
        raise InputError(
            f"Expected a classifier but {os.fspath(source)} has none: say how many classes a fresh "
            f"one shall have."
        )
    wanted.config.name = target.name
    variables, account = load_with_report(source, wanted.model, **wanted.loading)
    with _complete_or_nothing(target) as partial:
        _write(kind, partial, variables["params"], wanted)
        if report is not None:
            _write_json(Path(report), account.to_json())
    return account


def _kind(destination: str, to: str | None) -> str:
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


def _check_place(target: Path) -> None:
    if target.exists():
        raise InputError(f"{target} is there already: delete it, or choose another name.")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise InputError(
            f"Expected to write {target.name} into {target.parent}, which is not there or not for "
            f"you to write to: make it, or choose another place."
        )


def _write(kind: str, place: Path, params: dict[str, object], wanted: Wanted) -> None:
    if kind == "orbax":
        about = {"config": wanted.config.to_dict(), "label_names": list(wanted.label_names)}
        write_run(place, params, about)
    else:
        state = export_state_dict(params, kind, wanted.model.window_size)
        write_safetensors(place, state, {"format": "pt", "layout": kind})


@contextlib.contextmanager
def _complete_or_nothing(target: Path) -> Iterator[Path]:
    """A place to write to that becomes `target` if all goes well, and vanishes if not."""
    room = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield room / target.name
        os.replace(room / target.name, target)
    except OSError as error:
        raise InputError(
            f"{target} cannot be written ({error}): make room there, or choose another place."
        ) from None
    finally:
        shutil.rmtree(room, ignore_errors=True)


def _write_json(path: Path, content: dict[str, object]) -> None:
    try:
        with whole_file(path) as partial:
            partial.write_text(json.dumps(content, indent=2) + "\n")
    except OSError as error:
        raise InputError(
            f"The report cannot be written to {path} ({error.strerror}): choose another place."
        ) from None
