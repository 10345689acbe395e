"""The directory of each saved step: its damage, its score and its metadata."""

import json
import math
import os
from collections.abc import Mapping
from typing import Any

from etils import epath

from vswin_jax.checkpoint import manifest

PROGRAM = "vswin_jax"
# JSON files that every step has had since the first version of this program.
_REQUIRED_JSON = ("metadata/metadata", "state/_METADATA")
# Key in a step's metadata: the step was saved with a manifest.
_HAS_MANIFEST = "has_manifest"


def step_metadata(metadata: Mapping[str, Any], step: int) -> dict[str, Any]:
    """Build the metadata of a `step` that is saved with a manifest, as it is stored in JSON."""
    return {**metadata, "program": PROGRAM, "step": step, _HAS_MANIFEST: True}


def absolute_path(path: str | os.PathLike[str]) -> epath.Path:
    """Return the absolute path of a local directory; a URL stays as it is."""
    text = os.fspath(path)
    return epath.Path(text if "://" in text else os.path.abspath(text))


def steps_in(root: str | os.PathLike[str]) -> dict[int, epath.Path]:
    """Return the directories of the steps in `root` by step, newest first, damaged ones included.

    Orbax's own listing (`ocp.utils.checkpoint_steps`) has finalized steps only.
    """
    root = absolute_path(root)
    if not root.is_dir():
        return {}
    # Step directories have plain numbers as names; "007" and digits of other scripts are skipped.
    numbers = [child.name for child in root.iterdir() if child.name.isdecimal()]
    steps = sorted((int(name) for name in numbers if str(int(name)) == name), reverse=True)
    return {step: root / str(step) for step in steps}


def find_damage(directory: epath.Path, *, thorough: bool) -> str | None:
    """Return a phrase that describes the damage of a step, or None.

    A step that was saved before there were manifests is checked for its small files only. Unless
    `thorough`, the content of large files is not read.
    """
    try:
        return _find_damage(directory, thorough)
    except OSError as error:
        name = str(error.filename or directory).removeprefix(f"{directory}/")
        return f"'{name}' cannot be read: {error.strerror or error}"


def _find_damage(directory: epath.Path, thorough: bool) -> str | None:
    if not directory.is_dir():
        return "it is a file, not a directory"
    if not any(directory.iterdir()):
        return "it is an empty directory"
    if (directory / manifest.NAME).exists():
        return manifest.difference(directory, thorough=thorough)
    score_files = ["metrics/metrics"] if (directory / "metrics").exists() else []
    for name in (*_REQUIRED_JSON, *score_files):
        if not (directory / name).exists():
            return f"'{name}' is missing"
        if not manifest.read_json(directory / name):
            return f"'{name}' is not what was saved"
    if manifest.read_json(directory / _REQUIRED_JSON[0]).get(_HAS_MANIFEST):
        return f"'{manifest.NAME}' is missing"
    return None


def newest_readable(root: str | os.PathLike[str]) -> epath.Path | None:
    """Return the directory of the newest step that passes the quick check, or None."""
    directories = steps_in(root).values()
    return next((path for path in directories if find_damage(path, thorough=False) is None), None)


def read_score(directory: epath.Path) -> float | None:
    """Read the score of a step, or None if it was saved without one; NaN counts as the worst."""
    path = directory / "metrics" / "metrics"
    metrics = manifest.read_json(path) if path.exists() else {}
    return comparable_score(metrics) if "score" in metrics else None


def add_score(directory: epath.Path, score: float) -> None:
    """Write the score of a step that was saved without one."""
    # Renamed when it is complete: Orbax fails to open the directory if a score is not valid JSON.
    partial = directory / "metrics.partial"
    partial.mkdir(exist_ok=True)
    (partial / "metrics").write_text(json.dumps({"score": float(score)}))
    partial.rename(directory / "metrics")
    if (directory / manifest.NAME).exists():
        manifest.add(directory, "metrics/metrics")


def comparable_score(metrics: Mapping[str, float]) -> float:
    """Return the score in a step's metrics; NaN becomes minus infinity, the worst score."""
    score = float(metrics["score"])
    return -math.inf if math.isnan(score) else score
