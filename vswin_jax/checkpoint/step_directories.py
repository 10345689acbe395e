"""The steps saved in a directory: which there are, and whether one is as it was saved."""

import json
import math
import os
from collections.abc import Mapping
from typing import Any

from etils import epath

from vswin_jax.checkpoint import manifest

PROGRAM = "vswin_jax"
# What every step has had since the first version, and Orbax or we read as JSON.
_ALWAYS_JSON = ("metadata/metadata", "state/_METADATA")
# In a step's metadata: it was saved with a manifest.
_HAS_MANIFEST = "has_manifest"


def described(metadata: Mapping[str, Any], step: int) -> dict[str, Any]:
    """What is saved as JSON beside the state of `step`, which is saved with a manifest."""
    return {**metadata, "program": PROGRAM, "step": step, _HAS_MANIFEST: True}


def absolute(path: str | os.PathLike[str]) -> epath.Path:
    """The full path, of a directory here or of a URL."""
    text = os.fspath(path)
    return epath.Path(text if "://" in text else os.path.abspath(text))


def steps_in(root: str | os.PathLike[str]) -> dict[int, epath.Path]:
    """The steps in `root` with their places, the newest first; damaged ones are among them."""
    root = absolute(root)
    if not root.is_dir():
        return {}
    # Their names are plain numbers, which "007" and the digits of other scripts are not.
    numbers = [child.name for child in root.iterdir() if child.name.isdecimal()]
    steps = sorted((int(name) for name in numbers if str(int(name)) == name), reverse=True)
    return {step: root / str(step) for step in steps}


def damage(directory: epath.Path, *, thorough: bool) -> str | None:
    """What is wrong with a step, as a phrase; None if nothing is.

    A step that was saved before there were manifests cannot be compared with anything. Not
    `thorough`, the content of large files is not read.
    """
    try:
        return _damage(directory, thorough)
    except OSError as error:
        name = str(error.filename or directory).removeprefix(f"{directory}/")
        return f"'{name}' cannot be read: {error.strerror or error}"


def _damage(directory: epath.Path, thorough: bool) -> str | None:
    if not directory.is_dir():
        return "it is a file and no directory"
    if not any(directory.iterdir()):
        return "it is an empty directory"
    if (directory / manifest.NAME).exists():
        return manifest.difference(directory, thorough=thorough)
    scored = ["metrics/metrics"] if (directory / "metrics").exists() else []
    for name in (*_ALWAYS_JSON, *scored):
        if not (directory / name).exists():
            return f"'{name}' is missing"
        if not manifest.read_json(directory / name):
            return f"'{name}' is not what was saved"
    if manifest.read_json(directory / _ALWAYS_JSON[0]).get(_HAS_MANIFEST):
        return f"'{manifest.NAME}' is missing"
    return None


def newest_readable(root: str | os.PathLike[str]) -> epath.Path | None:
    """The place of the newest step in whose small files nothing is wrong, if there is one."""
    places = steps_in(root).values()
    return next((place for place in places if damage(place, thorough=False) is None), None)


def score_of(directory: epath.Path) -> float | None:
    """The score that a step was saved with; one that is no number counts as the worst."""
    path = directory / "metrics" / "metrics"
    metrics = manifest.read_json(path) if path.exists() else {}
    return comparable(metrics) if "score" in metrics else None


def add_score(directory: epath.Path, score: float) -> None:
    """Gives a step that was saved without a score the score it turned out to have."""
    partial = directory / "metrics.partial"
    partial.mkdir(exist_ok=True)
    (partial / "metrics").write_text(json.dumps({"score": float(score)}))
    partial.rename(directory / "metrics")
    if (directory / manifest.NAME).exists():
        manifest.add(directory, "metrics/metrics")


def comparable(metrics: Mapping[str, float]) -> float:
    """The score in a step's metrics, for finding the best."""
    score = float(metrics["score"])
    return -math.inf if math.isnan(score) else score
